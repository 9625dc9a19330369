"""Where the texts of figures lie and what they are drawn on, measured in a browser."""

import re
from typing import Any

CROWDED = """least => {
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
    for (const drawing of document.querySelectorAll('.lp-plot')) {
        const around = drawing.getBoundingClientRect();
        const scrolls = drawing.scrollWidth > drawing.clientWidth;
        const texts = [...drawing.querySelectorAll('.main-svg text')]
            .filter(t => t.textContent.trim() && t.getClientRects().length)
            .map(t => [t.textContent, quad(t)]);
        const marks = [...drawing.querySelectorAll('.scatterlayer path.point')].map(p => of(p.getBoundingClientRect()));
        texts.forEach(([words, box], n) => {
            if (!scrolls) for (const [x] of box)
                if (x < around.left - 1 || x > around.right + 1) { found.push(`${words}: out of its figure`); break; }
            for (const [others, other] of texts.slice(n + 1))
                if (depth(box, other) > least) found.push(`${words}: over ${others}`);
            for (const mark of marks)
                if (depth(box, mark) > least) found.push(`${words}: over a mark`);
        });
    }
    return found;
}"""
"""Texts over other texts or marks of their figure, or outside of it."""
LEAST_PX = 3
"""So deep the boxes of lines lie in one another: above and below their letters they are empty."""


def crowded(page: Any) -> list[str]:
    """What is crowded in the figures."""
    return list(page.evaluate(CROWDED, LEAST_PX))


def colours(found: list[str]) -> list[str]:
    """As '#0a141e', of 'rgb(10, 20, 30)'."""
    numbers = (map(int, re.findall("[0-9]+", colour)) for colour in found if colour)
    return ["#" + "".join(f"{number:02x}" for number in colour) for colour in numbers]


def papers(page: Any) -> set[str]:
    """The colours that figures are drawn on."""
    script = "[...document.querySelectorAll('.main-svg')].map((e) => e.style.background)"
    return {*colours(page.evaluate(script))}
