// Each element of y is a function of its previous value and its position.

struct Parameters { elements: u32, width: u32, x0: u32, x1: u32, x2: u32, y: u32, factor: f32 }

fn filled(bits: u32, j: u32, i: u32) -> u32 {
    return replaced(bits, j, element(i, value(bits, j)));
}
