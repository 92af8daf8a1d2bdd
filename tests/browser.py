"""A page as Chromium shows it, on a phone and on a screen."""

import html
import re
import shutil
import subprocess

# Opened in frames as wide as a phone and a screen; what is wrong with it ends up in the page itself.
LOOK = """
const luminance = c => {
  const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort(); return (y + 0.05) / (x + 0.05); };
onload = () => { for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, wide = page.documentElement.scrollWidth, wrong = [];
  if (wide > frame.contentWindow.innerWidth) wrong.push(`it is ${wide} wide`);
  for (const of of frame.contentWindow.performance.getEntriesByType("resource")) wrong.push(`it asked for ${of.name}`);
  const paper = getComputedStyle(page.body).backgroundColor;
  for (const of of page.querySelectorAll("body, .faint, .do, .problem, .note, .ok, .pale"))
    if (contrast(getComputedStyle(of)[of.namespaceURI.endsWith("svg") ? "fill" : "color"], paper) < 4.5) wrong.push(`${of.getAttribute("class") || of.tagName} is hard to read`);
  for (const of of page.querySelectorAll(".bar, .other, .filled, .dot"))
    if (contrast(getComputedStyle(of).fill, paper) < 1.9) wrong.push(`a ${of.className.baseVal} is hard to see`);
  for (const text of page.querySelectorAll("svg text")) {
    const box = text.getBBox(), room = text.ownerSVGElement.viewBox.baseVal;
    if (box.x < -1 || box.y < -1 || box.x + box.width > room.width + 1 || box.y + box.height > room.height + 1)
      wrong.push(`text leaves its plot: ${text.textContent}`);
    for (const other of text.ownerSVGElement.querySelectorAll("rect, text")) {
      const b = other.getBBox(); // of a text's box 3 units above and below are no ink
      if (other !== text && b.width && box.x < b.x + b.width - 1 && box.x + box.width > b.x + 1 && box.y + 3 < b.y + b.height && box.y + box.height - 3 > b.y)
        wrong.push(`text runs into a ${other.tagName}: ${text.textContent}`);
    }
  }
  const said = document.createElement("p");
  said.textContent = `${frame.clientWidth}, ${luminance(paper) < 0.5 ? "dark" : "light"}: ${[...new Set(wrong)].join("; ") || "fine"}`;
  document.body.append(said);
} };
"""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def looked_at(folder, page, scheme, widths=(320, 1200)):
    """Asserts that nothing is wrong with the page; it writes into the folder."""
    inner = html.escape(page.read_text())
    frames = "".join(f'<iframe style="width: {width}px; border: 0" srcdoc="{inner}"></iframe>' for width in widths)
    (folder / "look.html").write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body>{frames}<script>{LOOK}</script></body>'
    )
    done = subprocess.run(
        [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--window-size=1300,900", f"--user-data-dir={folder / 'user'}",
         f"--blink-settings=preferredColorScheme={('dark', 'light').index(scheme)}", "--enable-logging=stderr", "--dump-dom",
         (folder / "look.html").as_uri()], capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    said = [line.removesuffix("</p>") for line in re.findall(r"<p>(\d+, .*?)</p>", done.stdout.split("</script>")[-1])]
    assert said, done.stderr
    assert said == [f"{width}, {scheme}: fine" for width in widths]
