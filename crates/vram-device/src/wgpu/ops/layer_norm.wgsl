fn moments(first: u32, thread: u32) -> vec2<f32> {
    var sum = 0.0;
    for (var i = thread; i < p.width; i += THREADS) { sum += read0(p.x, first + i); }
    let mean = total(sum, thread) / f32(p.width);
    var squares = 0.0;
    for (var i = thread; i < p.width; i += THREADS) {
        let x = read0(p.x, first + i) - mean;
        squares = fma(x, x, squares);
    }
    return vec2<f32>(mean, 1.0 / sqrt(total(squares, thread) / f32(p.width) + p.eps));
}

fn normal(first: u32, i: u32, m: vec2<f32>) -> f32 {
    let x = (read0(p.x, first + i) - m.x) * m.y;
    return fma(x, weight(i), bias(i));
}
