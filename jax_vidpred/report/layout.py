"""Style and script of the HTML page: what the browser needs besides the content."""

# Slow motion, for the eye to follow.
FRAMES_PER_SECOND = 8

# One column on a phone; light or dark as the reader's system is.
STYLE = """
:root { --paper: #fff; --ink: #1c2026; --quiet: #666e78; --line: #e3e6ea;
  --wash: #f6f7f9; --seen: #aab1ba; --predicted: #d9730d; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --ink: #e6e8eb;
  --quiet: #98a1ac; --line: #2b3038; --wash: #1b1e24; --seen: #59616c } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  -webkit-text-size-adjust: 100% }
main { max-width: 1280px; margin: 0 auto; padding: 40px clamp(16px, 3.5vw, 48px) 64px }
h1, h2, h3 { line-height: 1.25; font-weight: 600; margin: 0; overflow-wrap: anywhere }
h1 { font-size: 15px; color: var(--quiet) }
h2 { font-size: 21px; margin: 56px 0 16px }
h3 { font-size: 16px }
p { margin: 0 }
.headline { font-size: clamp(21px, 2.6vw, 30px); line-height: 1.32; font-weight: 600;
  letter-spacing: -.012em; margin-top: 10px; max-width: 34em; text-wrap: pretty;
  overflow-wrap: anywhere }
header .quiet { margin-top: 14px }
.quiet { color: var(--quiet); font-size: 14px; max-width: 74em;
  overflow-wrap: anywhere }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: 8px 0 8px 24px; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
th { font-weight: 500; font-size: 14px; color: var(--quiet); vertical-align: bottom }
th:first-child { text-align: left; padding-left: 0; white-space: normal;
  overflow-wrap: anywhere; min-width: 7em }
thead th { white-space: normal; text-wrap: balance }
tbody th { font-size: 16px; color: var(--ink) }
tbody th, td { vertical-align: baseline }
.scroll + .scroll { margin-top: 28px }
.scroll + .quiet { margin-top: 12px }
tr.baseline th, tr.baseline td { color: var(--quiet) }
.results { display: grid; gap: 32px 56px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)) }
.results .quiet { margin-top: 12px }
article { padding: 22px 0 10px; border-top: 1px solid var(--line) }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 16px;
  margin: 14px 0 4px }
.bar button { font: inherit; font-size: 14px; color: inherit; background: var(--wash);
  border: 1px solid var(--line); border-radius: 6px; padding: 5px 0; width: 72px;
  cursor: pointer }
.bar output { font-size: 14px; font-variant-numeric: tabular-nums; min-width: 11.5em;
  color: var(--quiet) }
.bar output.predicted { color: var(--predicted) }
.bar input { flex: 1 1 180px; min-width: 0; height: 28px; margin: 0; appearance: none;
  background: none; cursor: pointer;
  --place: calc(9px + (100% - 18px) * var(--split)) }
.bar input::-webkit-slider-runnable-track { height: 4px; border-radius: 2px;
  background: linear-gradient(90deg, var(--seen) var(--place), var(--predicted) 0) }
.bar input::-moz-range-track { height: 4px; border-radius: 2px;
  background: linear-gradient(90deg, var(--seen) var(--place), var(--predicted) 0) }
.bar input::-webkit-slider-thumb { appearance: none; width: 18px; height: 18px;
  margin-top: -7px; border-radius: 9px; background: var(--ink);
  border: 3px solid var(--paper) }
.bar input::-moz-range-thumb { width: 12px; height: 12px; border-radius: 9px;
  background: var(--ink); border: 3px solid var(--paper) }
.panels { display: grid; gap: 14px 12px; margin: 12px 0 0;
  grid-template-columns: repeat(var(--count), minmax(0, 230px)) }
@media (max-width: 900px) { .panels {
  grid-template-columns: repeat(auto-fill, minmax(max(100px, 22%), 1fr)) } }
figure { margin: 0; min-width: 0 }
figcaption { font-size: 13px; line-height: 1.35; margin-bottom: 5px; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap }
canvas { display: block; width: 100%; border-radius: 3px; background: var(--wash);
  box-shadow: 0 0 0 2px var(--seen) }
canvas.grid { image-rendering: pixelated }
canvas.predicted { box-shadow: 0 0 0 2px var(--predicted) }
video { max-width: 100%; margin-top: 12px }
.plots { display: grid; gap: 20px 40px; margin: 20px 0 8px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)) }
.plots.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)) }
.plots svg, .plots img, .results svg { display: block; width: 100%; height: auto;
  max-width: 500px }
svg text { font-family: inherit !important; font-variant-numeric: tabular-nums }
.phase { margin: 28px 0 0 }
.legend { display: flex; gap: 16px; align-items: center; margin: 0 0 24px }
.legend span { display: inline-block; margin-right: 20px }
.legend b { font-weight: 600; color: var(--ink) }
.legend img { width: 44px; height: 44px; flex: none; border-radius: 22px }
dl { display: grid; grid-template-columns: minmax(7em, max-content) minmax(0, 1fr);
  gap: 6px 28px; margin: 0; font-size: 14px }
dt { color: var(--quiet) }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap;
  font-variant-numeric: tabular-nums }
"""

# Draws the frame that the slider stands on into every panel of a video and moves the
# cursors of its curves. Plays while the video is in view, unless the reader has asked
# for less motion.
SCRIPT = """
const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
for (const video of document.querySelectorAll('article')) {
  const [slider, button, output] = ['input', 'button', 'output']
    .map(name => video.querySelector(name));
  const context = +slider.dataset.context, last = +slider.max;
  let playing = !still, inView = false;
  const draw = () => {
    const frame = +slider.value, ahead = frame - context + 1;
    output.textContent = ahead > 0 ? `predicted ${ahead} of ${last - context + 1}`
      : `context ${frame + 1} of ${context}`;
    output.classList.toggle('predicted', ahead > 0);
    for (const canvas of video.querySelectorAll('canvas')) {
      const {columns, start, predicted} = canvas.dataset, index = frame - start;
      const {width, height} = canvas, pen = canvas.getContext('2d');
      pen.clearRect(0, 0, width, height);
      if (index >= 0) pen.drawImage(canvas.firstElementChild, width * (index % columns),
        height * Math.floor(index / columns), width, height, 0, 0, width, height);
      canvas.classList.toggle('predicted', predicted !== '' && frame >= predicted);
    }
    for (const line of video.querySelectorAll('.cursor')) {
      const shift = (ahead - line.dataset.frame) * line.dataset.step;
      line.setAttribute('transform', `translate(${shift})`);
      line.style.visibility = ahead < line.dataset.first ? 'hidden' : '';
    }
  };
  const play = on => { playing = on; button.textContent = on ? 'Pause' : 'Play'; };
  button.onclick = () => play(!playing);
  slider.oninput = () => { play(false); draw(); };
  setInterval(() => {
    if (!playing || !inView) return;
    slider.value = slider.value < last ? +slider.value + 1 : 0;
    draw();
  }, 1000 / RATE);
  new IntersectionObserver(([entry]) => { inView = entry.isIntersecting; })
    .observe(video.querySelector('.panels'));
  play(playing);
  const sheets = [...video.querySelectorAll('canvas img')];
  Promise.all(sheets.map(sheet => sheet.decode())).then(draw);
}
""".replace("RATE", str(FRAMES_PER_SECOND))
