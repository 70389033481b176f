// What the tests of the built site measure inside of a page: see tests/support/built_site.py.
(() => {
  const parse = (text) => {
    const found = text.match(/[\d.]+/g);
    if (!found) return [0, 0, 0, 0];
    const numbers = found.map(Number);
    return text.startsWith("color(srgb")
      ? [...numbers.slice(0, 3).map((part) => 255 * part), numbers[3] ?? 1]
      : [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const over = (top, below) => top.slice(0, 3).map((part, i) => part * top[3] + below[i] * (1 - top[3]));
  const luminance = (color) => {
    const [r, g, b] = color.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const hex = (color) => "#" + color.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("");
  const where = (element) => {
    const named = element.id ? `#${element.id}` : [...element.classList].map((name) => `.${name}`).join("");
    const parent = element.parentElement;
    return `${parent ? parent.tagName.toLowerCase() + [...parent.classList].map((n) => `.${n}`).join("") + " > " : ""}${element.tagName.toLowerCase()}${named}`;
  };

  // The colour that lies behind an element: grounds of those around it, the nearest on top.
  const grounds = new Map();
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    if (!grounds.has(element)) {
      const own = parse(getComputedStyle(element).backgroundColor);
      grounds.set(element, own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement)));
    }
    return grounds.get(element);
  };
  const opacities = new Map();
  const opacity = (element) => {
    if (!element) return 1;
    if (!opacities.has(element)) {
      opacities.set(element, Number(getComputedStyle(element).opacity) * opacity(element.parentElement));
    }
    return opacities.get(element);
  };

  // Text whose contrast is below WCAG AA: 4.5, and 3 where it is large (24 px, or 18.66 px in bold).
  const faint = () => {
    grounds.clear();
    opacities.clear();
    const found = new Map();
    let seen = 0;
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const judged = new Set();
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!node.data.trim() || judged.has(element)) continue;
      judged.add(element);
      if (element.closest("script, style, noscript, .katex-mathml, svg")) continue;
      if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      const box = element.getBoundingClientRect();
      if (box.width <= 1 || box.height <= 1) continue;
      const style = getComputedStyle(element);
      const below = ground(element);
      const color = parse(style.color);
      if (color[3] === 0) continue; // a gap in a formula
      const shown = over([...color.slice(0, 3), color[3] * opacity(element)], below);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      const contrast = ratio(shown, below);
      seen += 1;
      if (contrast < (large ? 3 : 4.5)) {
        const key = `${contrast.toFixed(2)} ${hex(shown)} on ${hex(below)}`;
        if (!found.has(key)) found.set(key, `${key}: ${where(element)}: ${node.data.trim().slice(0, 40)}`);
      }
    }
    return { seen, faint: [...found.values()] };
  };

  // What is cut or stands out at the right: in none of the boxes that scroll and show so by a shadow.
  const MARKED = ".md-typeset__scrollwrap, div.arithmatex, pre > code, .tabbed-labels";
  const marked = (element) =>
    element.matches(MARKED) &&
    getComputedStyle(element).backgroundImage.includes("gradient") &&
    ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
  const wide = () => {
    const width = document.documentElement.clientWidth;
    const found = [];
    if (document.documentElement.scrollWidth > width) found.push(`the page: ${document.documentElement.scrollWidth} px`);
    for (const element of document.querySelectorAll("article, article *")) {
      if (element.closest(".katex-mathml, .md-code__nav, svg")) continue;
      const style = getComputedStyle(element);
      const holds = style.overflowX !== "visible" && element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 1;
      if (holds && !marked(element)) found.push(`cut or unmarked: ${where(element)}: ${element.textContent.trim().slice(0, 40)}`);
      const box = element.getBoundingClientRect();
      if (box.right <= width + 1 || box.width <= 1) continue;
      let around = element.parentElement;
      while (around && getComputedStyle(around).overflowX === "visible") around = around.parentElement;
      if (!around || around === document.documentElement || around === document.body) {
        found.push(`beyond the edge: ${where(element)}: ${element.textContent.trim().slice(0, 40)}`);
      }
    }
    return found;
  };

  // Text (4.5) and lines and points (3) of a figure that is open by itself, against what is painted below them.
  // Lines that let the ground through are the many behind one that is meant, and points of many colours have a colour bar.
  const faintInFigure = (pages) => {
    const found = new Set();
    let seen = 0;
    const paint = (element, kind) => {
      const style = getComputedStyle(element);
      if (style[kind] === "none") return null;
      const part = parse(style[kind]);
      return [...part.slice(0, 3), part[3] * Number(style[`${kind}Opacity`]) * opacity(element)];
    };
    const isText = (element) => element.closest("text, g[id^='text_']") && !element.closest("g[id^='patch_']");
    const below = (element, page) => {
      const box = element.getBoundingClientRect();
      return document
        .elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2)
        .filter((other) => !isText(other) && !["svg", "image"].includes(other.tagName) && !other.contains(element))
        .filter((other) => other.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING)
        .reverse()
        .reduce((base, other) => over(paint(other, "fill") ?? [0, 0, 0, 0], base), page);
    };
    const judge = (colors, base, least, what) => {
      const ratios = colors.map((color) => ratio(over(color, base), base));
      seen += 1;
      if (Math.max(...ratios) < least) {
        const best = over(colors[ratios.indexOf(Math.max(...ratios))], base);
        found.add(`${Math.max(...ratios).toFixed(2)} ${hex(best)} on ${hex(base)}: ${what}`);
      }
    };
    for (const element of document.querySelectorAll("text, g[id^='text_'] use, g[id^='text_'] path")) {
      if (element.closest("defs") || !isText(element)) continue;
      const color = paint(element, "fill");
      if (!color || color[3] < 0.05) continue;
      for (const page of pages) judge([color], below(element, page), 4.5, `text ${element.closest("g[id]")?.id}`);
    }
    const drawn = ["line2d_", "PathCollection_", "LineCollection_"].map((id) => `g[id^='axes_'] > g[id^='${id}']`);
    const shades = new Map();
    const mapped = (group) => {
      if (!shades.has(group)) shades.set(group, new Set([...group.querySelectorAll("use, path")].map((part) => getComputedStyle(part).fill)).size);
      return shades.get(group) > 4;
    };
    for (const element of document.querySelectorAll(drawn.map((group) => `${group} path, ${group} use`).join())) {
      const group = element.closest(drawn.join());
      if (element.closest("defs") || mapped(group)) continue;
      const colors = ["fill", "stroke"].map((kind) => paint(element, kind)).filter((color) => color && color[3] > 0.8);
      const ground = element.closest("g[id^='axes_']").querySelector(":scope > g[id^='patch_'] path");
      const inside = (ground && paint(ground, "fill")) ?? [0, 0, 0, 0];
      const whole = paint(document.querySelector("g[id^='patch_'] path"), "fill") ?? [0, 0, 0, 0];
      if (!colors.length) continue;
      for (const page of pages) judge(colors, over(inside, over(whole, page)), 3, element.closest("g[id]").id);
    }
    return { seen, faint: [...found] };
  };

  window.siteMeasures = { faint, wide, faintInFigure };
})();
