"""Where the texts of plotly's figures lie, measured in a browser."""

from typing import Any

SET_MS = 20_000
CROWDED = """([least, overMarks]) => {
    const quad = text => {
        const b = text.getBBox(), m = text.getScreenCTM();
        return [[b.x, b.y], [b.x + b.width, b.y], [b.x + b.width, b.y + b.height], [b.x, b.y + b.height]]
            .map(([x, y]) => [m.a * x + m.c * y + m.e, m.b * x + m.d * y + m.f]);
    };
    const of = r => [[r.left, r.top], [r.right, r.top], [r.right, r.bottom], [r.left, r.bottom]];
    // how deep two convex shapes lie in one another, in pixels; 0 where a line parts them
    const depth = (one, other) => {
        let found = Infinity;
        for (const shape of [one, other])
            for (let n = 0; n < 2; n++) {
                const [x, y] = [shape[n + 1][0] - shape[n][0], shape[n + 1][1] - shape[n][1]];
                const long = Math.hypot(x, y);
                const [a, b] = [one, other].map(s => s.map(p => (p[0] * y - p[1] * x) / long));
                found = Math.min(found, Math.max(...a) - Math.min(...b), Math.max(...b) - Math.min(...a));
            }
        return Math.max(found, 0);
    };
    const found = [];
    for (const plot of document.querySelectorAll('.js-plotly-plot')) {
        const around = plot.getBoundingClientRect();
        const texts = [...plot.querySelectorAll('svg text')]
            .filter(t => t.textContent.trim() && t.getClientRects().length && !t.closest('.modebar, .hoverlayer'))
            .map(t => [t.textContent, quad(t), !!t.closest('.textpoint')]);
        const marks = [...plot.querySelectorAll('.scatterlayer .points path.point')].map(p => p.getBoundingClientRect());
        texts.forEach(([words, box, isName], n) => {
            for (const [x] of box)
                if (x < around.left - 1 || x > around.right + 1) { found.push(`${words}: out of its figure`); break; }
            for (const [others, other] of texts.slice(n + 1))
                if (depth(box, other) > least) found.push(`${words}: over ${others}`);
            if (isName && overMarks) for (const r of marks)
                if (depth(box, of(r)) > least) found.push(`${words}: over a mark`);
        });
    }
    return found;
}"""
"""Texts over other texts of their figure or outside of it, and names over marks."""
DRAWN_WIDE = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.offsetParent).every(plot => {
    const [own, around] = [plot.querySelector('.main-svg'), plot].map(e => e?.getBoundingClientRect().width);
    return Math.abs(own - around) < 2;
})"""
"""plotly has drawn every figure as wide as its place now is."""
LEAST_PX = 3
"""So deep the boxes of lines lie in one another: above and below their letters they are empty."""


def crowded(page: Any, *, over_marks: bool = True) -> list[str]:
    """What is crowded in the figures once they are drawn as wide as their places are; plotly sets
    words anew after it has drawn."""
    from playwright.sync_api import TimeoutError

    page.wait_for_function(DRAWN_WIDE)
    asked = [LEAST_PX, over_marks]
    try:
        page.wait_for_function(f"asked => !({CROWDED})(asked).length", arg=asked, timeout=SET_MS)
    except TimeoutError:
        return list(page.evaluate(CROWDED, asked))
    return []
