//! A second look at choices. Which of a kernel's weights and activations are still in the caches when its turn comes, only the
//! whole network can tell: so the networks that look best are timed as a whole, and then close rivals where they are to work.

use super::choose::{Choice, build, weighed};
use super::graph::Graph;
use super::program::{Program, Trial};
use crate::executor::Executor;
use crate::ops::Operator;
use crate::simd::{Buffer, Target};
use std::time::{Duration, Instant};

/// Times that a contender runs, at least and at most.
const TURNS: (usize, usize) = (5, 100);
/// The first of some networks is taken unless another one is faster by this much.
const FIRST: f64 = 1.05;
/// Turns of a whole network, and runs of one: the first brings its own weights into the caches.
const TRIALS: (usize, usize) = (3, 2);

/// One way to run a node.
struct Contender {
    choice: Choice,
    /// `None` for the program's own.
    operator: Option<Box<dyn Operator>>,
    us: f64,
}

/// Runs the whole network for about `budget`, in turns by each of these choices; returns the fastest, or the first if that is
/// about as fast.
pub(super) fn fastest(
    graph: &Graph,
    mut ways: Vec<Vec<Choice>>,
    (images, target): (usize, Target),
    executor: &dyn Executor,
    budget: Duration,
) -> Vec<Choice> {
    ways.dedup();
    if ways.len() > 1 {
        let programs: Vec<_> = ways.iter().map(|choices| Program::new(graph, choices, images, target)).collect();
        let runs: Vec<_> = programs.iter().map(|program| (program, executor)).collect();
        let time = budget / (TRIALS.0 * ways.len()) as u32;
        let mut best = Trial::new(graph, images).in_turns(&runs, TRIALS, time);
        best[0] = best[0].div_f64(FIRST);
        let fastest = best.iter().enumerate().min_by_key(|&(_, took)| took).map_or(0, |(at, _)| at);
        ways.swap(0, fastest);
    }
    ways.swap_remove(0)
}

/// Runs the network for about `budget`, each node in turns by its choice and by its rivals, which want the same layouts; returns
/// the fastest.
pub(super) fn settle(
    graph: &Graph,
    mut choices: Vec<Choice>,
    rivals: &[Vec<Choice>],
    (images, target): (usize, Target),
    executor: &dyn Executor,
    budget: Duration,
) -> Vec<Choice> {
    let most = rivals.iter().map(Vec::len).max().unwrap_or(0) + 1;
    if most == 1 {
        return choices;
    }
    let program = Program::new(graph, &choices, images, target);
    let contenders = |((node, &choice), rivals): ((_, &Choice), &Vec<Choice>)| -> Vec<Contender> {
        let operator = |rival: &Choice| Some(build(graph, node, rival, images, target));
        let rivals = rivals.iter().map(|rival| (*rival, operator(rival)));
        let all = [(choice, None)].into_iter().chain(rivals);
        all.map(|(choice, operator)| Contender { choice, operator, us: f64::INFINITY }).collect()
    };
    let mut nodes: Vec<_> = graph.nodes().iter().zip(&choices).zip(rivals).map(contenders).collect();
    let scratch = nodes.iter().flatten().filter_map(|it| it.operator.as_ref()).map(|operator| operator.scratch());
    let mut workspace = program.workspace(scratch.max().unwrap_or(0));
    let x: Vec<f32> = (0..images * graph.input().len()).map(|i| (i % 17) as f32 * 0.125 - 1.0).collect();
    let mut y = Buffer::zeroed(images * graph.output().len());
    let deadline = Instant::now() + budget;
    // In pairs: in the first run of a contender it brings its weights into the caches that it finds in the second.
    for round in 0..2 * most * TURNS.1 {
        for step in &program.steps {
            let contenders = step.node.map_or(0, |node| nodes[node].len());
            if contenders < 2 {
                step.run(executor, &x, &mut y, &mut workspace);
                continue;
            }
            let node = step.node.map(|node| &mut nodes[node][round / 2 % contenders]);
            let Some(contender) = node else { continue };
            let operator = contender.operator.as_ref().unwrap_or(&step.operator);
            let start = Instant::now();
            step.run_by(&**operator, executor, &x, &mut y, &mut workspace);
            if round % 2 == 1 {
                contender.us = contender.us.min(start.elapsed().as_secs_f64() * 1e6);
            }
        }
        if round + 1 >= 2 * most * TURNS.0 && Instant::now() > deadline {
            break;
        }
    }
    for (choice, contenders) in choices.iter_mut().zip(&nodes) {
        let fastest = contenders.iter().min_by(|a, b| weighed(&a.choice, a.us).total_cmp(&weighed(&b.choice, b.us)));
        *choice = fastest.map_or(*choice, |contender| contender.choice);
    }
    choices
}
