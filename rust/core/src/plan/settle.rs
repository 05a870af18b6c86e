//! A second look at close choices. Alone, a kernel finds its weights and activations in the caches of the run before; in a
//! network they have made room for those of other nodes. So rivals are timed once more where they are to work.

use super::choose::{Choice, build, weighed};
use super::graph::Graph;
use super::program::Program;
use crate::executor::Executor;
use crate::ops::Operator;
use crate::simd::{Buffer, Target};
use std::time::{Duration, Instant};

/// Times that a contender runs, at least and at most.
const TURNS: (usize, usize) = (5, 100);

/// One way to run a node.
struct Contender {
    choice: Choice,
    /// `None` for the program's own.
    operator: Option<Box<dyn Operator>>,
    us: f64,
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
    for round in 0..most * TURNS.1 {
        for step in &program.steps {
            let contenders = step.node.map_or(0, |node| nodes[node].len());
            if contenders < 2 {
                step.run(executor, &x, &mut y, &mut workspace);
                continue;
            }
            let node = step.node.map(|node| &mut nodes[node][round % contenders]);
            let Some(contender) = node else { continue };
            let operator = contender.operator.as_ref().unwrap_or(&step.operator);
            let start = Instant::now();
            step.run_by(&**operator, executor, &x, &mut y, &mut workspace);
            contender.us = contender.us.min(start.elapsed().as_secs_f64() * 1e6);
        }
        if round + 1 >= most * TURNS.0 && Instant::now() > deadline {
            break;
        }
    }
    for (choice, contenders) in choices.iter_mut().zip(&nodes) {
        let fastest = contenders.iter().min_by(|a, b| weighed(&a.choice, a.us).total_cmp(&weighed(&b.choice, b.us)));
        *choice = fastest.map_or(*choice, |contender| contender.choice);
    }
    choices
}
