// Names for what ipywidgets leaves nameless: the handles of sliders, the buttons of a player.
export default { render({ el }) {
  const name = () => {
    const box = el.closest(".diffusion-lab-alive");
    if (!box) return void setTimeout(name, 100);
    for (const handle of box.querySelectorAll("[role=slider]"))
      handle.setAttribute(
        "aria-label", handle.closest(".widget-slider").querySelector(".widget-label").textContent);
    ["play or pause", "stop", "play again and again"].forEach((word, i) => {
      for (const button of box.querySelectorAll(`.widget-play button:nth-of-type(${i + 1})`)) {
        button.setAttribute("aria-label", word);
        button.title = word;
      }
    });
  };
  name();
  setTimeout(name, 500);  // the other controls may be drawn after this one
  setTimeout(name, 3000);
} };
