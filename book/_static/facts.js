// A printed result opens a panel with the facts behind it: by hovering, by the keyboard's focus, by
// a click or a tap. The facts stand once in the page, as JSON at its end. Without this script a
// result is a link to the place where the same facts stand.
document.addEventListener("DOMContentLoaded", () => {
  const store = document.getElementById("gb-facts");
  if (!store || !HTMLElement.prototype.showPopover) {
    return;
  }
  const { results, runs } = JSON.parse(store.textContent);
  const labels = {
    published: "Published",
    ours: "Ours",
    rule: "Rule",
    why: "Why this rule",
    verdict: "Verdict",
    profile: "Profile",
    seeds: "Seeds",
    commit: "Commit",
    hardware: "Hardware",
    time: "Wall time",
    command: "Run it again",
  };
  const edge = 8; // pixels between the panel and what it must not touch
  const patience = 250; // milliseconds, for a pointer on its way
  let opener = null;
  let returning = null; // the result to which a closing panel gives the focus back
  let timer = 0;

  function make(name, parent, attributes = {}, text = "") {
    const element = parent.appendChild(document.createElement(name));
    element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) {
      element.setAttribute(key, value);
    }
    return element;
  }

  const panel = make("div", document.querySelector("article") || document.body, {
    id: "gb-panel",
    popover: "auto",
    role: "dialog",
    "aria-label": "Where this number comes from",
    tabindex: "-1",
  });

  // A badge for the verdict, code for the command, plain text for the rest.
  function fill(cell, key, text) {
    if (key === "verdict") {
      make("span", cell, { class: `gb-verdict gb-${text.replaceAll(" ", "-")}` }, text);
    } else {
      make(key === "command" ? "code" : "span", cell, {}, text);
    }
  }

  function write(link) {
    const result = results[link.dataset.facts];
    const facts = { ...result, ...runs[result.run] };
    panel.replaceChildren();
    make("p", panel, { class: "gb-what" }, result.what);
    const list = make("dl", panel);
    for (const [key, label] of Object.entries(labels)) {
      if (facts[key]) {
        make("dt", list, {}, label);
        fill(make("dd", list), key, facts[key]);
      }
    }
    const foot = make("div", panel, { class: "gb-foot" });
    const where = result.verdict ? "Its row in the ledger" : "The line of this run";
    make("a", foot, { href: link.getAttribute("href") }, where).onclick = () => panel.hidePopover();
    make("button", foot, { type: "button" }, "Close").onclick = () => panel.hidePopover();
    if (panel.textContent.includes("\\(")) {
      window.MathJax?.typesetPromise?.([panel]).then(() => opener === link && place(link));
    }
  }

  // Below the number if there is room, else above it; scrolling with the page.
  function place(link) {
    const wide = document.documentElement.clientWidth;
    const boxes = [...link.getClientRects()];
    const last = boxes.at(-1);
    const below = window.innerHeight - last.bottom - 2 * edge;
    const above = boxes[0].top - 2 * edge;
    panel.style.maxHeight = `${Math.max(below, above)}px`;
    const high = panel.offsetHeight;
    const left = Math.min(last.left, wide - panel.offsetWidth - edge);
    const top = high <= below || below >= above ? last.bottom + edge : boxes[0].top - high - edge;
    panel.style.left = `${Math.max(edge, left) + window.scrollX}px`;
    panel.style.top = `${top + window.scrollY}px`;
  }

  function open(link) {
    clearTimeout(timer);
    if (opener !== link || !panel.matches(":popover-open")) {
      panel.hidePopover();
      write(link);
      panel.showPopover();
      opener = link;
      link.setAttribute("aria-expanded", "true");
      panel.scrollTop = 0;
    }
    place(link);
  }

  function later(act) {
    clearTimeout(timer);
    timer = setTimeout(act, patience);
  }

  // Not while the reader is in the panel, or on the number by the keyboard.
  function leave() {
    later(() => {
      const kept = panel.contains(document.activeElement) || opener?.matches(":focus-visible");
      return kept || panel.hidePopover();
    });
  }

  // Before and not after ("toggle"): that event comes late, and a reader may have gone on by then.
  panel.addEventListener("beforetoggle", (event) => {
    if (event.newState === "closed") {
      returning = panel.contains(document.activeElement) ? opener : null;
      opener?.setAttribute("aria-expanded", "false");
      opener = null;
    }
  });
  // The browser would do this by itself, had the theme not its own plans with the key.
  window.addEventListener("keydown", (event) => event.key === "Escape" && panel.hidePopover(), true);
  panel.addEventListener("pointerenter", () => clearTimeout(timer));
  panel.addEventListener("pointerleave", leave);
  // The panel stands at the end of the page: leaving it by the keyboard leads back to the number.
  panel.addEventListener("keydown", (event) => {
    const ends = panel.querySelectorAll("a, button");
    const last = event.shiftKey ? [panel, ends[0]] : [ends[ends.length - 1]];
    if (event.key === "Tab" && last.includes(document.activeElement)) {
      event.preventDefault();
      const back = opener;
      panel.hidePopover();
      back.focus();
    }
  });

  for (const link of document.querySelectorAll("a[data-facts]")) {
    link.setAttribute("aria-haspopup", "dialog");
    link.setAttribute("aria-expanded", "false");
    link.addEventListener("click", (event) => {
      if (!event.ctrlKey && !event.metaKey && !event.shiftKey) {
        event.preventDefault();
        panel.hidePopover();
        link.focus({ preventScroll: true }); // where the browser returns when the panel closes
        open(link);
        panel.focus({ preventScroll: true });
      }
    });
    link.addEventListener("focus", () => {
      if (link !== returning && link.matches(":focus-visible")) {
        open(link);
      }
      returning = null;
    });
    link.addEventListener("blur", leave);
    link.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse" && !panel.contains(document.activeElement)) {
        later(() => open(link));
      }
    });
    link.addEventListener("pointerleave", leave);
  }
});
