fn moments(first: u32, thread: u32) -> vec2<f32> {
    var sum = 0.0;
    for (var i = thread; i < p.width; i += THREADS) {
        let x = read0(p.x, first + i);
        sum = fma(x, x, sum);
    }
    return vec2<f32>(0.0, 1.0 / sqrt(total(sum, thread) / f32(p.width) + p.eps));
}

fn normal(first: u32, i: u32, m: vec2<f32>) -> f32 {
    return rounded(read0(p.x, first + i) * m.y) * weight(i);
}
