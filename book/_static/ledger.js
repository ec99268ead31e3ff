// The ledger of the whole book can be narrowed by chapter, verdict and profile. The choice stands
// in the address, ledger.html#chapter=aevb&verdict=missed, so that a link can lead to it.
(() => {
  const table = document.querySelector("section#ledger .gb-ledger");
  if (!table) {
    return;
  }
  const rows = [...table.querySelectorAll("tr[data-verdict]")];
  const heads = [...table.querySelectorAll("tr.gb-chapter")];
  const words = { "not-run-at-this-scale": "not run at this scale", "within-band": "within band" };
  const titles = Object.fromEntries(
    heads.map((head) => [head.nextElementSibling?.dataset.chapter, head.textContent]),
  );
  const fields = { chapter: "Chapter", verdict: "Verdict", profile: "Profile" };
  const box = document.createElement("div");
  box.className = "gb-filter";
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Narrow the ledger");
  const selects = Object.fromEntries(
    Object.entries(fields).map(([field, name]) => [field, choice(field, name)]),
  );
  const all = box.appendChild(document.createElement("button"));
  all.type = "button";
  all.textContent = "Show all";
  const count = box.appendChild(document.createElement("p"));
  count.setAttribute("role", "status");
  table.closest(".gb-scroll").before(box);

  function choice(field, name) {
    const label = box.appendChild(document.createElement("label"));
    label.textContent = name;
    const select = label.appendChild(document.createElement("select"));
    select.add(new Option("all", ""));
    for (const value of new Set(rows.map((row) => row.dataset[field]))) {
      select.add(new Option(titles[value] || words[value] || value, value));
    }
    select.addEventListener("change", choose);
    return select;
  }

  function show() {
    const wanted = Object.entries(selects).filter(([, select]) => select.value);
    for (const row of rows) {
      row.hidden = !wanted.every(([field, select]) => row.dataset[field] === select.value);
    }
    const shown = rows.filter((row) => !row.hidden);
    const chapters = new Set(shown.map((row) => row.dataset.chapter));
    for (const head of heads) {
      head.hidden = !chapters.has(head.nextElementSibling?.dataset.chapter);
    }
    count.textContent = `${shown.length} of ${rows.length} claims`;
    all.disabled = wanted.length === 0;
  }

  // The reader's choice goes into the address; `replaceState` does not scroll.
  function choose() {
    const chosen = Object.entries(selects).filter(([, select]) => select.value);
    const state = new URLSearchParams(chosen.map(([field, select]) => [field, select.value]));
    history.replaceState(null, "", `#${state}`);
    show();
  }

  // The address makes the choice; one that names a row shows all of them.
  function read() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const [field, select] of Object.entries(selects)) {
      select.value = state.get(field) || "";
      if (select.selectedIndex < 0) {
        select.value = "";
      }
    }
    show();
  }

  all.addEventListener("click", () => {
    for (const select of Object.values(selects)) {
      select.value = "";
    }
    choose();
    selects.chapter.focus();
  });
  window.addEventListener("hashchange", read);
  read();
  if ([...new URLSearchParams(location.hash.slice(1)).keys()].some((key) => key in fields)) {
    box.scrollIntoView();
  }
})();
