// Elements of rows that are not in this part of the table are left unchanged.

struct Parameters { elements: u32, width: u32, x: u32, y: u32, first: u32, end: u32, ids: array<vec4<u32>, 1024> }

fn filled(bits: u32, j: u32, i: u32) -> u32 {
    let row = i / p.width;
    let at = p.ids[row / 4u][row % 4u];
    if (at < p.first || at >= p.end) { return bits; }
    return replaced(bits, j, read0(p.x, (at - p.first) * p.width + i % p.width));
}
