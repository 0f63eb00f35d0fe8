// Returns the texts on the page whose contrast with what is behind them is below WCAG 2.2's level AA, each with its ratio.
const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
function luminance([red, green, blue]) {
  const linear = [red, green, blue].map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}
function ratio(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}
function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = channels(getComputedStyle(at).backgroundColor);
    if (colour[3] === undefined || colour[3] === 1) return colour;
    if (colour[3] > 0) throw new Error("a translucent background is not understood here");
  }
  return [255, 255, 255];
}
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let looked = 0;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, .unseen, .skip, :disabled")) continue;
  const style = getComputedStyle(element);
  const size = parseFloat(style.fontSize);
  const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
  const reached = ratio(channels(style.color), behind(element));
  looked += 1;
  if (reached < needed) found.push([walker.currentNode.data.trim().slice(0, 40), Math.round(100 * reached) / 100]);
}
if (looked < 20) throw new Error(`only ${looked} texts were found`);
return found;
