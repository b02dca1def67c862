// A card as a picture: drawn by the browser from the same file, twice as fine as it is shown.

const [WIDTH, TALLEST, SCALE] = [760, 2400, 2];

export async function picture(address, name) {
  const text = await (await fetch(address)).text(); // well-formed; parsed here, the page's policy would drop its styles
  const markup = text.replace(/^.*?<body/su, '<div xmlns="http://www.w3.org/1999/xhtml"').replace(/<\/body>.*$/su, "</div>");
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${TALLEST}"><foreignObject width="100%" height="100%">${markup}</foreignObject></svg>`;
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const drawing = blank(TALLEST * SCALE);
  drawing.drawImage(image, 0, 0, WIDTH * SCALE, TALLEST * SCALE);
  const cut = blank(Math.min(TALLEST * SCALE, lastRow(drawing) + 24 * SCALE));
  cut.drawImage(drawing.canvas, 0, 0);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await new Promise((done) => cut.canvas.toBlob(done, "image/png")));
  link.download = name;
  link.click();
}

function blank(height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [WIDTH * SCALE, height];
  const drawing = canvas.getContext("2d");
  drawing.fillStyle = "#fff";
  drawing.fillRect(0, 0, canvas.width, canvas.height);
  return drawing;
}

// The last row that is not white throughout.
function lastRow(drawing) {
  const { data } = drawing.getImageData(0, 0, drawing.canvas.width, drawing.canvas.height);
  return Math.ceil((data.findLastIndex((value) => value !== 255) + 1) / (4 * drawing.canvas.width));
}
