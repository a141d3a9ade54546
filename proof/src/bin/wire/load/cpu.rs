//! This module reads what a process has taken of the machine.

use std::fs;

use super::Sample;
use super::wrk::Sent;
use crate::BoxError;

/// The processor's time that a process has had so far, and its pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// Microseconds, exact.
    micros: f64,
    /// The same in the kernel's coarse ticks, and the part of it that the kernel took for itself.
    ticks: f64,
    kernel_ticks: f64,
    faults: f64,
}

impl Taken {
    /// What was taken since `begun`, for each request that was sent.
    pub(crate) fn since(&self, begun: &Self, sent: &Sent) -> Sample {
        let ticks = (self.ticks - begun.ticks).max(1.0);
        Sample {
            micros: (self.micros - begun.micros) / sent.requests,
            in_kernel: (self.kernel_ticks - begun.kernel_ticks) / ticks,
            faults: (self.faults - begun.faults) / sent.requests,
            per_second: sent.per_second,
        }
    }
}

pub(crate) fn of(process: u32) -> Result<Taken, BoxError> {
    let mut nanos = 0.0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().ok_or("an empty schedstat")?;
        nanos += first.parse::<f64>()?;
    }
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name of the program, in parentheses, may have spaces. After it come the state and
    // numbers, as proc(5) lists them.
    let (_, fields) = text.rsplit_once(')').ok_or("a stat without a name")?;
    let numbers: Vec<f64> = fields
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [_, _, _, _, _, _, faults, _, _, _, user, kernel, ..] = numbers[..] else {
        return Err("a short stat".into());
    };
    Ok(Taken {
        micros: nanos / 1000.0,
        ticks: user + kernel,
        kernel_ticks: kernel,
        faults,
    })
}
