//! Pruned convolutions and their gradients, for every format, target and thread count, against float64.

use super::*;
use crate::executor::{Sequential, with_threads};
use crate::naive::{self, Exact, numbers};
use crate::ops::Shape;
use crate::ops::relayout::Border;
use crate::simd::Target;
use proptest::prelude::*;

const KINDS: [Option<Kind>; 5] =
    [None, Some(Kind::Csr), Some(Kind::Pattern), Some(Kind::Block { height: 4 }), Some(Kind::Block { height: 8 })];

/// Filters over some images.
#[derive(Debug, Clone)]
struct Case {
    /// Groups, channels and filters of each.
    groups: (usize, usize, usize),
    window: Window,
    border: Border,
    size: (usize, usize),
    images: usize,
    density: f64,
    seed: u64,
}

/// A convolution's result, the gradient of its input and that of its values.
type Products = (Vec<f32>, Vec<f32>, Vec<f32>);

impl Case {
    fn image(&self) -> Shape {
        Shape { c: self.groups.0 * self.groups.1, h: self.size.0, w: self.size.1 }
    }

    fn conv(&self) -> Result<Conv2d, crate::Error> {
        let (groups, channels, filters) = self.groups;
        let Border { top, left, bottom, right } = self.border;
        Conv2d::new(
            (groups * filters, groups * channels, groups),
            self.window,
            Padding::Fixed([top, left, bottom, right]),
        )
    }

    /// Whether a window fits into the images.
    fn fits(&self) -> bool {
        self.conv().is_ok_and(|conv| conv.over(self.size).is_ok())
    }

    fn rows(&self, values: impl Fn(Vec<f32>) -> Vec<f32>) -> Rows {
        let (groups, channels, filters) = self.groups;
        let (m, k) = (groups * filters, channels * self.window.size.0 * self.window.size.1);
        Rows::from_dense(m, k, &values(numbers(m * k, self.density, self.seed))).unwrap()
    }

    /// x, dY and a bias.
    fn operands(&self, values: impl Fn(Vec<f32>) -> Vec<f32>) -> [Vec<f32>; 3] {
        let (h, w) = self.conv().unwrap().over(self.size).unwrap().result;
        let filters = self.groups.0 * self.groups.2;
        let lens = [self.images * self.image().len(), self.images * filters * h * w, filters];
        [0, 1, 2].map(|i| values(numbers(lens[i], 1.0, self.seed ^ (i + 1) as u64)))
    }

    fn pack(&self, rows: Rows, kind: Option<Kind>, target: Target) -> PackedConv2d {
        PackedConv2d::new(self.conv().unwrap(), rows, kind, target).unwrap()
    }

    fn run(&self, packed: &PackedConv2d, threads: usize, [x, dy, bias]: &[Vec<f32>; 3]) -> Products {
        let (executor, images) = (with_threads(threads), (self.images, self.size));
        let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
        let mut values = vec![f32::NAN; packed.rows().nnz()];
        let epilogue = Epilogue::new(Some(bias), Activation::Relu);
        packed.forward(&*executor, images, x, &mut y, epilogue).unwrap();
        packed.grad_input(&*executor, images, dy, &mut dx).unwrap();
        packed.grad_weight(&*executor, images, dy, x, &mut values).unwrap();
        (y, dx, values)
    }

    fn wanted(&self, rows: &Rows, [x, dy, bias]: &[Vec<f32>; 3]) -> [Vec<Exact>; 3] {
        let (window, border, image) = ((self.window, self.groups.0), self.border, self.image());
        let dy_len = dy.len() / self.images.max(1);
        let (mut y, mut dx) = (Vec::new(), Vec::new());
        for (x, dy) in x.chunks(image.len()).zip(dy.chunks(dy_len.max(1))) {
            y.extend(naive::conv2d((rows, (bias, &[])), window, border, (image, x), Activation::Relu));
            dx.extend(naive::conv2d_input(rows, window, border, image, dy));
        }
        [y, dx, naive::conv2d_weight(rows, window, border, (image, x), dy)]
    }

    fn check(&self, threads: usize) {
        let (rows, operands) = (self.rows(|x| x), self.operands(|x| x));
        let wanted = self.wanted(&rows, &operands);
        for target in Target::available() {
            for kind in KINDS {
                let packed = self.pack(rows.clone(), kind, target);
                let found = self.run(&packed, threads, &operands);
                for (what, wanted, found) in
                    [("y", &wanted[0], &found.0), ("dx", &wanted[1], &found.1), ("dw", &wanted[2], &found.2)]
                {
                    assert_eq!(wanted.len(), found.len());
                    for (at, (wanted, &found)) in wanted.iter().zip(found).enumerate() {
                        let name = target.name();
                        assert!(wanted.allows(found), "{what}[{at}] {found} {wanted:?} {kind:?} {name} {self:?}");
                    }
                }
                let (again, bits) =
                    (self.run(&packed, 1, &operands), |x: &[f32]| x.iter().map(|x| x.to_bits()).collect());
                let all = |(y, dx, values): &Products| -> [Vec<u32>; 3] { [bits(y), bits(dx), bits(values)] };
                assert_eq!(all(&again), all(&found), "{threads} threads: {kind:?} {self:?}");
            }
        }
    }
}

const CASE: Case = Case {
    groups: (1, 5, 7),
    window: Window::new((3, 3), (1, 1)),
    border: Border { top: 1, left: 1, bottom: 1, right: 1 },
    size: (9, 10),
    images: 2,
    density: 0.3,
    seed: 1,
};

/// Large enough to be worth several threads.
#[test]
fn bits_do_not_depend_on_threads() {
    for (images, size, filters) in [(1, (40, 40), 150), (9, (14, 14), 20), (17, (7, 7), 64), (33, (3, 2), 129)] {
        let case = Case { groups: (1, 16, filters), images, size, ..CASE };
        case.check(3);
        Case { window: Window { stride: (2, 1), ..CASE.window }, ..case }.check(2);
    }
}

#[test]
fn every_batch_and_density() {
    for images in [0, 1, 2, 7, 9, 17, 33] {
        for density in [0.0, 0.05, 0.5, 1.0] {
            let case = Case { images, density, ..CASE };
            case.check(3);
            Case { window: Window { size: (3, 2), stride: (2, 3), dilation: (1, 2) }, size: (8, 13), ..case }.check(3);
        }
    }
}

/// Borders wider than the window, strides longer than the window or the image, windows as large as the image.
#[test]
fn odd_geometries() {
    let border = |all| Border { top: all, left: all, bottom: all, right: all };
    let window = |size, stride, dilation| Window { size, stride, dilation };
    for (window, border, size) in [
        (window((3, 3), (1, 1), (1, 1)), border(4), (5, 6)),
        (window((1, 1), (2, 2), (1, 1)), border(0), (7, 8)),
        (window((1, 1), (1, 1), (1, 1)), border(2), (4, 4)),
        (window((2, 2), (5, 9), (1, 1)), border(1), (11, 7)),
        (window((2, 2), (3, 3), (1, 1)), border(0), (2, 2)),
        (window((3, 3), (2, 2), (2, 2)), border(3), (9, 9)),
        (window((3, 2), (3, 2), (2, 3)), Border { top: 0, left: 3, bottom: 2, right: 0 }, (9, 9)),
        (window((7, 7), (2, 2), (1, 1)), border(3), (1, 1)),
        (window((1, 5), (1, 1), (1, 4)), border(0), (3, 50)),
        (window((5, 1), (1, 1), (6, 1)), border(0), (70, 1)),
    ] {
        for groups in [(1, 2, 9), (2, 3, 4), (5, 1, 1), (3, 1, 2)] {
            Case { window, border, size, groups, ..CASE }.check(2);
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let geometry = ((1usize..5, 1usize..5), (1usize..4, 1usize..4), (1usize..4, 1usize..4));
    let border = (0usize..4, 0usize..4, 0usize..4, 0usize..4);
    let images = prop::sample::select(vec![1usize, 2, 7, 9, 17, 33]);
    let shape = ((1usize..4, 1usize..6, 1usize..12), (1usize..20, 1usize..20), images);
    (geometry, border, shape, 0.0f64..1.0, any::<u64>())
        .prop_map(|(geometry, (top, left, bottom, right), (groups, size, images), density, seed)| {
            let (window, stride, dilation) = geometry;
            let window = Window { size: window, stride, dilation };
            Case { groups, window, border: Border { top, left, bottom, right }, size, images, density, seed }
        })
        .prop_filter("a window fits", Case::fits)
}

/// A quarter of the other suites' cases: each is five formats and three products.
fn config() -> ProptestConfig {
    let cases = std::env::var("SECATEUR_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500);
    ProptestConfig::with_cases(cases / 4)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_convolutions(case in cases(), threads in prop::sample::select(vec![1usize, 3])) {
        case.check(threads);
    }

    #[test]
    fn integers_are_exact(case in cases()) {
        let whole = |values: Vec<f32>| values.into_iter().map(|x| (x * 4.0).round()).collect::<Vec<_>>();
        let (rows, operands) = (case.rows(whole), case.operands(whole));
        let wanted = case.wanted(&rows, &operands).map(|all| all.iter().map(|it| it.value as f32).collect::<Vec<_>>());
        for target in Target::available() {
            for kind in KINDS {
                let (y, dx, values) = case.run(&case.pack(rows.clone(), kind, target), 1, &operands);
                prop_assert_eq!(&[y, dx, values], &wanted, "{:?} {}", kind, target.name());
            }
        }
    }

    #[test]
    fn updated_values_are_as_if_packed_anew(case in cases()) {
        let (rows, operands) = (case.rows(|x| x), case.operands(|x| x));
        // A value that becomes 0 keeps its place.
        let values = numbers(rows.nnz(), 0.9, case.seed ^ 9);
        let mut fresh = rows.clone();
        fresh.values_mut().copy_from_slice(&values);
        for kind in KINDS {
            let mut packed = case.pack(rows.clone(), kind, Target::detect());
            case.run(&packed, 1, &operands);
            let nbytes = packed.nbytes();
            packed.update(&numbers(rows.nnz(), 0.5, case.seed ^ 8)).unwrap();
            packed.update(&values).unwrap();
            let wanted = case.run(&case.pack(fresh.clone(), kind, Target::detect()), 1, &operands);
            prop_assert_eq!(case.run(&packed, 1, &operands), wanted, "{:?}", kind);
            prop_assert_eq!(packed.nbytes(), nbytes);
            prop_assert_eq!(packed.rows(), &fresh);
        }
    }
}

/// More sizes than stay packed, in turn.
#[test]
fn images_of_many_sizes() {
    let rows = CASE.rows(|x| x);
    let mut packed = CASE.pack(rows.clone(), None, Target::detect());
    for round in 0..2 {
        for size in [(3, 3), (4, 9), (9, 4), (12, 12), (7, 7), (5, 1)] {
            let case = Case { size, images: 3 + round, ..CASE };
            let operands = case.operands(|x| x);
            let wanted = case.run(&case.pack(packed.rows().clone(), None, Target::detect()), 1, &operands);
            assert_eq!(case.run(&packed, 1, &operands), wanted);
        }
        packed.update(&numbers(rows.nnz(), 1.0, 5)).unwrap();
    }
}

#[test]
fn same_padding_is_that_of_the_layers() {
    let window = Window { size: (3, 2), stride: (2, 3), dilation: (2, 1) };
    let conv = Conv2d::new((1, 1, 1), window, Padding::Same).unwrap();
    for (h, w) in [(1, 1), (4, 6), (5, 7), (8, 8)] {
        let over = conv.over((h, w)).unwrap();
        assert_eq!(over.result, (h.div_ceil(2), w.div_ceil(3)));
        let missing = (over.result.0 - 1) * 2 + 5 - h;
        assert_eq!(over.before.0, missing / 2);
    }
}

#[test]
fn bad_arguments_are_named() {
    let fixed = |all| Padding::Fixed([all; 4]);
    let refused = |shape, window, padding| Conv2d::new(shape, window, padding).unwrap_err().to_string();
    let window = Window::new((3, 3), (1, 1));
    assert!(refused((4, 6, 4), window, fixed(0)).contains("groups: 4"));
    assert!(refused((4, 4, 0), window, fixed(0)).contains("groups: 0"));
    assert!(refused((0, 4, 1), window, fixed(0)).contains("weight"));
    assert!(refused((4, 4, 1), Window::new((0, 3), (1, 1)), fixed(0)).contains("weight"));
    assert!(refused((4, 4, 1), Window { stride: (0, 1), ..window }, fixed(0)).contains("stride"));
    assert!(refused((4, 4, 1), Window { dilation: (1, 70_000), ..window }, fixed(0)).contains("dilation"));
    assert!(refused((4, 4, 1), Window { dilation: (1, 60_000), ..window }, fixed(0)).contains("dilation"));
    assert!(refused((4, 4, 1), window, fixed(70_000)).contains("padding"));

    let conv = Conv2d::new((4, 2, 1), window, fixed(0)).unwrap();
    for size in [(0, 5), (2, 5), (5, 2), (usize::MAX, 5), (60_000, 60_000)] {
        assert!(conv.over(size).unwrap_err().to_string().starts_with("x: "), "{size:?}");
    }
    let rows = || Rows::from_dense(4, 18, &numbers(72, 0.5, 1)).unwrap();
    let new = |rows, kind| PackedConv2d::new(conv, rows, kind, Target::detect());
    assert!(new(Rows::empty(4, 17), None).unwrap_err().to_string().contains("weight"));
    for kind in [Kind::Bitmap, Kind::Dense, Kind::Stream, Kind::Window] {
        assert!(new(rows(), Some(kind)).unwrap_err().to_string().contains("does not convolve"));
    }
    let mut packed = new(rows(), None).unwrap();
    let nnz = packed.rows().nnz();
    assert!(packed.update(&[0.0]).unwrap_err().to_string().contains("values"));
    let images = (2, (5, 5));
    let epilogue = Epilogue::new(Some(&[0.0]), Activation::None);
    let (x, mut y) = (vec![0.0; 100], vec![0.0; 72]);
    let text = |result: crate::Result<()>| result.unwrap_err().to_string();
    assert!(text(packed.forward(&Sequential, images, &x[1..], &mut y, Epilogue::default())).starts_with("x: 99"));
    assert!(text(packed.forward(&Sequential, images, &x, &mut y[1..], Epilogue::default())).starts_with("out: 71"));
    assert!(text(packed.forward(&Sequential, images, &x, &mut y, epilogue)).starts_with("bias: 1"));
    assert!(text(packed.grad_input(&Sequential, images, &y[1..], &mut [0.0; 100])).starts_with("dy: 71"));
    let mut values = vec![0.0; nnz + 1];
    assert!(text(packed.grad_weight(&Sequential, images, &y, &x, &mut values)).starts_with("out: "));
    assert!(text(packed.grad_weight(&Sequential, (usize::MAX, (5, 5)), &y, &x, &mut values[1..])).starts_with("x: "));
}
