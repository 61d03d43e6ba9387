"""The course around the package: lessons, checks, figures, survey and benchmarks."""
