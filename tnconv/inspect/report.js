// Clicking through the stages: with the mouse, with the arrow keys, Home and End.
(() => {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const stages = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
  const show = (place, focus) => {
    tabs.forEach((tab, i) => {
      const on = i === place;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      stages[i].hidden = !on;
    });
    if (focus) tabs[place].focus({ preventScroll: true });
  };
  tabs.forEach((tab, i) => tab.addEventListener("click", () => show(i, true)));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !tabs.length) return;
    const now = tabs.findIndex((tab) => tab.getAttribute("aria-selected") === "true");
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 }[event.key];
    const scrolls = event.target.closest && event.target.closest("pre, .wide");
    if (next === undefined || scrolls || ((event.key === "Home" || event.key === "End") && event.target === document.body)) return;
    event.preventDefault();
    show(Math.min(Math.max(next, 0), tabs.length - 1), true);
  });
})();
