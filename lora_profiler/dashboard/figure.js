// A figure, which the scripts of the server's `FIGURES` draw in the browser; they are fetched once.
const scripts = (globalThis.lpScripts ??= new Promise((done, failed) => {
  const script = document.createElement("script");
  script.src = new URL("lora-profiler/figures.js", document.baseURI).href;
  script.onload = done;
  script.onerror = failed;
  document.head.append(script);
}));

export default function ({ data, parentElement }) {
  const { figure, name, says, caption, look, colours } = data;
  const place = parentElement.querySelector(".figure");
  place.querySelector(".lp-plot").setAttribute("aria-label", says);
  place.lpColours = colours;
  scripts.then(() => {
    if (place.lpDraw) place.lpDraw(figure);
    else place.lpDraw = lpFigures.show(place, name, figure, look, () => place.lpColours, caption);
  });
}
