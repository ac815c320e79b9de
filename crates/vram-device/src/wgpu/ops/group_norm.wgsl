// Normalises elements by the mean, the factor and the bias of their channels.

struct Parameters { elements: u32, channels: u32, x: u32, table: u32, y: u32 }

fn filled(bits: u32, j: u32, i: u32) -> u32 {
    let entry = i % p.channels * 3u;
    let x = read0(p.x, i) - read1(p.table, entry);
    return replaced(bits, j, fma(x, read1(p.table, entry + 1u), read1(p.table, entry + 2u)));
}
