// Has the page drawn anew when the browser turns light or dark: the server drew it in `data`.
let told;

export default function ({ data, setTriggerValue }) {
  const { colorScheme } = getComputedStyle(document.querySelector('[data-testid="stApp"]'));
  if (colorScheme !== data && colorScheme !== told) setTriggerValue("turned", colorScheme);
  told = colorScheme;
}
