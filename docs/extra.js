// names for the search dialog, and tables that the keyboard can scroll
const named = () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) table.tabIndex = 0;
};
new MutationObserver(named).observe(document.body, { childList: true, subtree: true });
named();
