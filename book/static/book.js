// Small help for every page; nothing is loaded from elsewhere. window.bookGlossary is made by the build.
(() => {
  "use strict";

  // What scrolls sideways can be reached and scrolled by key.
  const reachable = () => {
    for (const box of document.querySelectorAll("article table, article pre, article .output, article mjx-container")) {
      const scrolls = box.scrollWidth > box.clientWidth + 1;
      if (scrolls && !box.hasAttribute("tabindex")) {
        box.tabIndex = 0;
        box.dataset.scrolls = "";
      } else if (!scrolls && "scrolls" in box.dataset) {
        box.removeAttribute("tabindex");
        delete box.dataset.scrolls;
      }
    }
  };

  // The arrows in the side bar say what they open.
  const named = () => {
    for (const arrow of document.querySelectorAll(".bd-sidenav summary")) {
      const link = arrow.closest("li")?.querySelector("a");
      if (link && !arrow.textContent.trim()) arrow.setAttribute("aria-label", `Pages below ${link.textContent.trim()}`);
    }
  };

  // Entries of the bibliography are items of the list that they stand in.
  const listed = () => {
    for (const entry of document.querySelectorAll(".citation-list > [role=doc-biblioentry]")) entry.setAttribute("role", "listitem");
  };

  // The first time a page uses a word of the glossary, the word carries its meaning.
  const explained = () => {
    const words = window.bookGlossary || {};
    const here = document.querySelector("article.bd-article");
    if (!here || location.pathname.endsWith("/book/glossary.html")) return;
    const left = new Map(Object.entries(words));
    const skip = "a, code, pre, h1, h2, h3, h4, dt, mjx-container, .math, .cell_output, summary, figcaption, script, .no-terms";
    const root = document.documentElement.dataset.content_root || "./";
    for (const block of here.querySelectorAll("p, li, dd")) {
      if (!left.size) return;
      if (block.closest(skip)) continue;
      const text = block.textContent;
      for (const [word, entry] of [...left]) {
        const pattern = new RegExp(`(?<![\\w-])${word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(?![\\w-])`, entry.exact ? "" : "i");
        if (!pattern.test(text)) continue;
        const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
          const hit = pattern.exec(node.data);
          if (!hit || node.parentElement.closest(skip)) continue;
          const rest = node.splitText(hit.index);
          rest.splitText(hit[0].length);
          const link = document.createElement("a");
          link.className = "term";
          link.href = `${root}book/glossary.html#${entry.id}`;
          link.title = entry.text;
          link.textContent = rest.data;
          rest.replaceWith(link);
          left.delete(word);
          break;
        }
      }
    }
  };

  const ready = () => {
    named();
    listed();
    explained();
    reachable();
    window.addEventListener("resize", reachable);
    window.addEventListener("load", () => setTimeout(reachable, 300));
    window.MathJax?.startup?.promise?.then(reachable);
    document.addEventListener("toggle", reachable, true);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", ready);
  else ready();
})();
