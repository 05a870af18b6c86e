//! Weights and operands of the benches.

/// A xorshift: weights need no better randomness, and the bench no further crate.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in [-1, 1).
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// m × k weights of which `percent` are zero, removed in groups of `height` rows.
pub fn weights(m: usize, k: usize, percent: u64, height: usize) -> Vec<f32> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut dense = vec![0.0; m * k];
    for group in 0..m.div_ceil(height) {
        for column in 0..k {
            if random.next() % 100 >= percent {
                for row in group * height..m.min((group + 1) * height) {
                    dense[row * k + column] = random.float();
                }
            }
        }
    }
    dense
}
