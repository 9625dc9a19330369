// A button that saves the picture which the server sent as PNG: the browser itself draws it, and
// nothing is fetched.
export default function ({ data, parentElement }) {
  parentElement.querySelector("button").onclick = () => {
    const picture = new Image();
    picture.onload = () => {
      const size = { width: data.width, height: data.height };
      const canvas = Object.assign(document.createElement("canvas"), size);
      canvas.getContext("2d").drawImage(picture, 0, 0);
      canvas.toBlob((png) => save(png, data.name), "image/png");
    };
    picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(data.svg)}`;
  };
}

function save(png, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(png);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
