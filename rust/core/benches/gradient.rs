//! The gradient of a sparse matrix on its nonzeros, dY · Xᵀ: every density on every CPU target, one thread.

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secateur_core::executor::Sequential;
use secateur_core::formats::{PackedMatrix, Rows};
use secateur_core::simd::{Storage, Target};
use std::hint::black_box;
use std::time::Duration;
use support::{Random, weights};

fn bench(criterion: &mut Criterion) {
    for (m, k, n) in [(768, 768, 128), (768, 768, 32)] {
        let mut random = Random(1);
        let dy: Vec<f32> = (0..m * n).map(|_| random.float()).collect();
        let x: Vec<f32> = (0..k * n).map(|_| random.float()).collect();
        for percent in [50, 80, 90, 95] {
            let mut group = criterion.benchmark_group(format!("sddmm/{m}x{k}x{n}/{percent}%"));
            group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
            for target in Target::available() {
                let rows = Rows::from_dense(m, k, &weights(m, k, percent, 1)).expect("weights of that shape");
                group.throughput(Throughput::Elements((rows.nnz() * n) as u64));
                let mut values = vec![0.0; rows.nnz()];
                let packed = PackedMatrix::new(rows, None, None, target, Storage::F32).expect("weights that fit");
                group.bench_function(BenchmarkId::from_parameter(target.name()), |bencher| {
                    bencher.iter(|| {
                        packed
                            .sddmm(&Sequential, n, black_box(&dy), black_box(&x), &mut values)
                            .expect("shapes that fit");
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
