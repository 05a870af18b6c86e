//! Convolutions of one image, 3×3 with a border: every format at every density, on every CPU target, one thread.

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secateur_core::executor::Sequential;
use secateur_core::formats::{Activation, Rows, Window};
use secateur_core::ops::linear::{Kernel, Linear};
use secateur_core::ops::relayout::Border;
use secateur_core::ops::{Layout, Shape};
use secateur_core::simd::Target;
use std::hint::black_box;
use std::time::Duration;
use support::{Random, weights};

const BORDER: Border = Border { top: 1, left: 1, bottom: 1, right: 1 };
const KERNELS: [(&str, Kernel, usize); 4] = [
    ("csr", Kernel::Csr, 1),
    ("pattern", Kernel::Pattern, 1),
    ("block 8x1", Kernel::Block8, 8),
    ("dense", Kernel::Panel, 1),
];

fn bench(criterion: &mut Criterion) {
    for (channels, pixels) in [(64, 56), (128, 28), (256, 14)] {
        let image = Shape { c: channels, h: pixels, w: pixels };
        let mut random = Random(1);
        let x: Vec<f32> = (0..image.len()).map(|_| random.float()).collect();
        let mut y = vec![0.0; image.len()];
        for percent in [50, 80, 90, 95] {
            let mut group = criterion.benchmark_group(format!("conv 3x3/{channels}x{pixels}px/{percent}%"));
            group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
            for (name, kernel, height) in KERNELS {
                let columns = channels * 9;
                let dense = weights(channels, columns, percent, height);
                let rows = Rows::from_dense(channels, columns, &dense).expect("weights of that shape");
                group.throughput(Throughput::Elements((rows.nnz() * pixels * pixels) as u64));
                let layer = Linear {
                    weights: rows,
                    bias: None,
                    residual: false,
                    activation: Activation::Relu,
                    window: Window::new((3, 3), (1, 1)),
                    groups: 1,
                    border: Border::default(),
                    input: BORDER.around(image),
                    output: image,
                };
                for target in Target::available() {
                    let operator = layer.build(kernel, Layout::Inside(BORDER), Layout::RowMajor, 1, target);
                    let mut scratch = vec![0.0; operator.scratch()];
                    group.bench_function(BenchmarkId::new(name, target.name()), |bencher| {
                        bencher.iter(|| operator.run(&Sequential, &[black_box(&x[..])], &mut y, &mut scratch));
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
