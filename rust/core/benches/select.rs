//! Exact selection: the k-th largest magnitude and the mask of the k largest, against a pass that only reads the scores.
//!
//! `cargo bench -p secateur-core --bench select`. Throughput is in bytes of scores: compare it with `read`, the memory's own.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use secateur_core::executor::{self, Executor, Sequential};
use secateur_core::select::{MaskMut, Score, Scores, Tensor, kept, kth_largest, top_k_mask};
use std::hint::black_box;
use std::time::Duration;

/// Sums of three uniform numbers: a bell like trained weights have, most of it near 0.
fn weights(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| uniform() + uniform() + uniform()).collect()
}

fn bench(criterion: &mut Criterion) {
    for (name, len) in [("in cache, 256 Ki", 1 << 18), ("in memory, 16 Mi", 1 << 24)] {
        let values = weights(len);
        let k = kept(0.9, len).expect("a sparsity");
        let mut mask = vec![false; len];
        let mut group = criterion.benchmark_group(format!("select/{name}"));
        group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
        group.throughput(Throughput::Bytes(4 * len as u64));
        group.bench_function("read", |bencher| {
            bencher.iter(|| black_box(&values).iter().fold(0u32, |all, value| all | value.to_bits()));
        });
        let pool = executor::current();
        let executors: [(&str, &dyn Executor); 2] = [("1 thread", &Sequential), ("all threads", &*pool)];
        for (threads, executor) in executors {
            let scores = Scores::F32(Score::Magnitude(&values));
            let tensors = [Tensor { name: None, shape: &[len], scores }];
            group.bench_function(format!("kth_largest, {threads}"), |bencher| {
                bencher.iter(|| kth_largest(executor, black_box(&tensors), k).expect("no NaN"));
            });
            group.bench_function(format!("top_k_mask 90%, {threads}"), |bencher| {
                bencher.iter(|| {
                    let masks = vec![MaskMut::Bools(&mut mask)];
                    top_k_mask(executor, black_box(&tensors), k, None, masks).expect("no NaN")
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
