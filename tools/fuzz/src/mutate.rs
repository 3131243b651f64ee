//! A small deterministic mutator, for running the targets without a fuzzer.

/// Numbers at which lengths and counts go wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    7,
    8,
    16,
    32,
    64,
    127,
    255,
    4096,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX >> 1,
    u64::MAX,
];

/// Inputs made of seeds; the same seeds and number give the same inputs.
pub struct Mutator {
    seeds: Vec<Vec<u8>>,
    state: u64,
}

impl Mutator {
    /// A mutator of `seeds`.
    ///
    /// # Panics
    /// Without seeds.
    pub fn new(seeds: Vec<Vec<u8>>, number: u64) -> Mutator {
        assert!(!seeds.is_empty());
        Mutator { seeds, state: number }
    }

    /// The seeds themselves.
    pub fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }

    /// Splitmix64.
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.bits() % end.max(1) as u64) as usize
    }

    fn seed(&mut self) -> Vec<u8> {
        let index = self.below(self.seeds.len());
        self.seeds[index].clone()
    }

    /// The next input: a seed with one to four changes.
    pub fn next(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..1 + self.below(4) {
            self.change(&mut input);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len());
        match self.below(9) {
            0 | 1 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            2 if !input.is_empty() => input[at] = self.bits() as u8,
            3 | 4 => self.edge(input, at),
            5 => input.truncate(at),
            6 => {
                let count = 1 + self.below(8);
                let bytes: Vec<u8> = (0..count).map(|_| self.bits() as u8).collect();
                input.splice(at..at, bytes);
            }
            7 => {
                let end = (at + 1 + self.below(16)).min(input.len());
                input.drain(at.min(end)..end);
            }
            _ => {
                let other = self.seed();
                let from = self.below(other.len());
                let count = self.below(other.len() - from + 1);
                let end = (at + count).min(input.len());
                input.splice(at.min(end)..end, other[from..from + count].iter().copied());
            }
        }
    }

    /// Writes a number of 1 to 8 bytes, or adds a little to the one that stands there.
    fn edge(&mut self, input: &mut [u8], at: usize) {
        let width = 1 << self.below(4);
        let Some(field) = input.get_mut(at..at + width) else { return };
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(field);
        let near = u64::from_le_bytes(bytes).wrapping_add(self.bits() % 9).wrapping_sub(4);
        let edge = EDGES[self.below(EDGES.len())];
        let number = if self.below(2) == 0 { near } else { edge };
        if self.below(4) == 0 {
            field.copy_from_slice(&number.to_be_bytes()[8 - width..]);
        } else {
            field.copy_from_slice(&number.to_le_bytes()[..width]);
        }
    }
}
