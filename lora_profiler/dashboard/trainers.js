// The bars by trainer, drawn by the server; a click sends the bar's name.
export default function ({ data, parentElement, setTriggerValue }) {
  const place = parentElement.querySelector(".lp-trainers");
  place.innerHTML = data;
  for (const button of place.querySelectorAll("button"))
    button.onclick = () => setTriggerValue("taken", button.dataset.name);
}
