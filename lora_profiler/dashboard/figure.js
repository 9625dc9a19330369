// A figure that the server drew, and beside the pointer what the mark under it stands for.
export default function ({ data, parentElement }) {
  const place = parentElement.querySelector(".lp-figure");
  place.innerHTML = data;
  for (const title of place.querySelectorAll("title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  const tip = Object.assign(document.createElement("div"), { className: "lp-tip", hidden: true });
  place.append(tip);
  place.onpointermove = place.onpointerdown = (event) => {
    const words = event.target.dataset.tip;
    tip.hidden = !words;
    if (!words) return;
    tip.textContent = words;
    const around = place.getBoundingClientRect();
    const right = event.clientX - around.left + 12;
    tip.style.left = `${Math.max(0, Math.min(right, around.width - tip.offsetWidth))}px`;
    tip.style.top = `${event.clientY - around.top + 16}px`;
  };
  place.onpointerleave = () => {
    tip.hidden = true;
  };
}
