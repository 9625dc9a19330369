// Sliders that redraw the bars above them while they are dragged, from what the server sent of every
// stop; when one is let go, its stop becomes the question.
export default function ({ data, parentElement, setTriggerValue }) {
  const place = parentElement.querySelector(".lp-slides");
  const released = (slide) => (at) =>
    setTriggerValue("released", { name: slide.name, value: slide.stops[at] });
  const shown = (slide) => (at) => draw(slide.frames[at]);
  place.replaceChildren(
    ...data.slides.map((slide) => field(slide, shown(slide), released(slide))),
  );
}

// A slider over the stops of `slide`: `dragged` is told each place that it comes by, `released` where
// it is let go.
function field(slide, dragged, released) {
  const label = document.createElement("label");
  const name = document.createElement("span");
  const input = document.createElement("input");
  const told = document.createElement("output");
  name.textContent = slide.label;
  Object.assign(input, { type: "range", min: 0, max: slide.stops.length - 1, step: 1 });
  input.value = slide.place;
  const tell = () => {
    told.textContent = slide.texts[input.value];
    input.setAttribute("aria-valuetext", slide.texts[input.value]);
  };
  tell();
  input.addEventListener("input", () => {
    tell();
    dragged(input.value);
  });
  input.addEventListener("change", () => released(input.value));
  label.append(name, input, told);
  return label;
}

function draw(frame) {
  const shown = document.querySelector(".lp-frame");
  if (!shown) return;
  shown.setAttribute("aria-label", frame.words);
  shown.querySelectorAll(".lp-bar").forEach((row, n) => {
    const bar = frame.bars[n];
    row.firstElementChild.textContent = bar.label;
    row.lastElementChild.textContent = bar.number;
    row.querySelector(".lp-track").classList.toggle("lp-cut", bar.cut);
    row.querySelectorAll(".lp-part").forEach((part) => part.remove());
    const parts = bar.parts.map(([kind, low, high]) => {
      const part = document.createElement("i");
      part.className = `lp-part lp-${kind}`;
      part.style.left = `${low}%`;
      part.style.width = `${high - low}%`;
      return part;
    });
    row.querySelector(".lp-track").prepend(...parts);
  });
}
