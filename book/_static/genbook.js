// A formula or table that is wider than its box scrolls inside it.  Make such a box, and only
// such a box, reachable from the keyboard.
(() => {
  const boxes = "mjx-container[display], div.math, div.cell_output .output, .gb-scroll, .gb-table";

  function mark() {
    for (const box of document.querySelectorAll(boxes)) {
      if (box.scrollWidth > box.clientWidth) {
        box.tabIndex = 0;
      } else {
        box.removeAttribute("tabindex");
      }
    }
  }

  window.addEventListener("load", () => {
    mark();
    window.MathJax?.startup?.promise.then(mark);
  });
  window.addEventListener("resize", mark);
})();

// Paper is light.
(() => {
  const page = document.documentElement;
  let theme;

  window.addEventListener("beforeprint", () => {
    theme = page.dataset.theme;
    page.dataset.theme = "light";
  });
  window.addEventListener("afterprint", () => {
    page.dataset.theme = theme;
  });
})();

// Beside what it finds, the search shows a few words that it reads from the page; from disk it may
// not read.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
