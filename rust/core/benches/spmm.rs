//! Packed weights times a dense matrix: every format at every density, on every CPU target, one thread.
//!
//! `cargo bench -p secateur-core --bench spmm -- 90%` runs the part whose name holds `90%`. Criterion keeps the last run and
//! reports the change against it: this is for developing a kernel. Comparisons with other libraries are benches/peers.

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secateur_core::executor::Sequential;
use secateur_core::formats::{Epilogue, Kind, PackedMatrix, Rows};
use secateur_core::simd::{Storage, Target};
use std::hint::black_box;
use std::time::Duration;
use support::{Random, weights};

const FORMATS: [(&str, (usize, usize)); 6] = [
    ("csr", (8, 1)),
    ("pattern", (8, 1)),
    ("block", (8, 1)),
    ("bitmap", (8, 1)),
    ("window", (8, 1)),
    ("stream", (8, 1)),
];

fn bench(criterion: &mut Criterion) {
    for (m, k, n) in [(1024, 1024, 768), (1024, 1024, 1)] {
        let mut random = Random(1);
        let x: Vec<f32> = (0..k * n).map(|_| random.float()).collect();
        let mut y = vec![0.0; m * n];
        for percent in [50, 80, 90, 95] {
            let mut group = criterion.benchmark_group(format!("spmm/{m}x{k}x{n}/{percent}%"));
            group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
            for (format, block) in FORMATS {
                let (few, many) = (["bitmap", "window", "stream"].contains(&format), format == "pattern");
                if (few && n > 1) || (many && n == 1) {
                    continue; // at that width it runs another format's kernel
                }
                let kind = Kind::parse(format, block).expect("a format's name");
                let height = if format == "block" { block.0 } else { 1 };
                let dense = weights(m, k, percent, height);
                for target in Target::available() {
                    let rows = Rows::from_dense(m, k, &dense).expect("weights of that shape");
                    // Throughput is of the arithmetic done, in multiply-adds.
                    group.throughput(Throughput::Elements((rows.nnz() * n) as u64));
                    let packed =
                        PackedMatrix::new(rows, kind, Some(n), target, Storage::F32).expect("weights that fit");
                    let id = BenchmarkId::new(format, target.name());
                    group.bench_function(id, |bencher| {
                        bencher.iter(|| {
                            packed
                                .matmul(&Sequential, n, black_box(&x), &mut y, Epilogue::default())
                                .expect("shapes that fit");
                        });
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
