//! `diskmap-only CHECKPOINT [TENSOR]`: lists a checkpoint's tensors, or reads one.

use std::time::Instant;

use vram_diskmap::DiskMap;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: diskmap-only CHECKPOINT [TENSOR]")?;
    let start = Instant::now();
    let map = DiskMap::open(&path)?;
    let Some(name) = args.next() else {
        for (name, tensor) in map.iter() {
            println!("{name}: {} {}", tensor.dtype(), tensor.shape());
        }
        return Ok(());
    };
    let tensor = map.get(&name)?;
    let bytes = tensor.bytes().len();
    println!(
        "{tensor:?}: {bytes} bytes, {} read, {:?}",
        map.bytes_read(),
        start.elapsed()
    );
    Ok(())
}
