//! The steps of one operation, as its handler asks for them.

use bytes::Bytes;

use crate::limits::Holding;
use crate::record::Fingerprint;
use crate::request::steps::error::StepFaultKind;
use crate::runtime::Mutex;
use crate::store::RecordedStep;

/// The bytes of the request's fingerprint, behind the JSON of a recorded result.
const FINGERPRINT_BYTES: usize = 32;

/// Which steps an operation has, and which of them its handler has asked for.
#[derive(Default)]
pub(crate) struct StepLog(Mutex<State>);

#[derive(Default)]
struct State {
    /// In a box, because most operations have no step.
    log: Option<Box<Log>>,
    /// The handler has responded.
    closed: bool,
}

#[derive(Default)]
struct Log {
    /// The steps of earlier attempts that the handler has not asked for yet.
    earlier: Vec<RecordedStep>,
    /// The room that these take.
    room: Option<Holding>,
    /// The names that the handler has asked for, and whether each one is running.
    asked: Vec<(String, bool)>,
    /// How many steps the record has, with those that are running.
    count: usize,
    /// How many bytes the record has of them.
    bytes: usize,
}

/// How much an operation may record.
#[derive(Clone, Copy)]
pub(crate) struct StepLimits {
    pub(crate) count: usize,
    pub(crate) each: usize,
    pub(crate) bytes: usize,
}

/// What a step begins with.
pub(crate) enum Begun<'a> {
    /// The result that an earlier attempt recorded.
    Recorded(Bytes),
    Open(OpenStep<'a>),
}

/// A step that is running. Its name is free again if it is dropped before [`keep`](Self::keep).
pub(crate) struct OpenStep<'a> {
    log: &'a StepLog,
    name: &'a str,
    /// Whether the record has the step, or may have it.
    kept: bool,
}

impl StepLog {
    /// Adds the steps of earlier attempts, and the room that they take.
    pub(crate) fn add(&self, steps: Vec<RecordedStep>, room: Holding) {
        let mut state = self.0.lock();
        let log = state.log.get_or_insert_default();
        for step in steps {
            if log.earlier.iter().all(|known| known.name != step.name) {
                log.count += 1;
                log.bytes += step.size().saturating_sub(FINGERPRINT_BYTES);
                log.earlier.push(step);
            }
        }
        match &mut log.room {
            Some(known) => known.grow_anyway(room.amount()),
            none => *none = Some(room),
        }
    }

    pub(crate) fn begin<'a>(
        &'a self,
        name: &'a str,
        limits: StepLimits,
    ) -> Result<Begun<'a>, StepFaultKind> {
        // One lock for all of it: two steps of one name at once would otherwise both run.
        let mut state = self.0.lock();
        if state.closed {
            return Err(StepFaultKind::Ended);
        }
        let log = state.log.get_or_insert_default();
        if log.asked.iter().any(|(asked, _)| asked == name) {
            return Err(StepFaultKind::NameInUse);
        }
        if let Some(at) = log.earlier.iter().position(|step| step.name == name) {
            let step = log.earlier.remove(at);
            log.asked.push((step.name, false));
            return Ok(Begun::Recorded(step.result));
        }
        if log.count >= limits.count {
            return Err(StepFaultKind::TooMany);
        }
        log.count += 1;
        log.asked.push((name.to_owned(), true));
        Ok(Begun::Open(OpenStep {
            log: self,
            name,
            kept: false,
        }))
    }

    /// Whether a step is running.
    #[cfg(any(test, feature = "_sql"))]
    pub(crate) fn is_open(&self) -> bool {
        let state = self.0.lock();
        let log = state.log.as_ref();
        log.is_some_and(|log| log.asked.iter().any(|(_, running)| *running))
    }

    /// Says that the handler has responded: no step begins any more, and the results that it has not
    /// asked for are dropped. A handler can keep its context for longer.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        if let Some(log) = &mut state.log {
            log.earlier = Vec::new();
            log.room = None;
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().closed
    }
}

impl OpenStep<'_> {
    /// Counts a result, if there is room for it, before it is sent to the store. From here on the
    /// record may have the step, so that its name is not free again.
    pub(crate) fn keep(&mut self, size: usize, limits: StepLimits) -> Result<(), StepFaultKind> {
        let mut state = self.log.0.lock();
        let log = state.log.as_mut().expect("the step has begun");
        if size > limits.each || log.bytes.saturating_add(size) > limits.bytes {
            return Err(StepFaultKind::TooLarge);
        }
        log.bytes += size;
        self.kept = true;
        Ok(())
    }
}

#[cfg(feature = "_sql")]
impl OpenStep<'_> {
    /// Takes back a result that [`keep`](Self::keep) has counted: its transaction was rolled back.
    pub(crate) fn take_back(&mut self, size: usize) {
        let mut state = self.log.0.lock();
        let log = state.log.as_mut().expect("the step has begun");
        log.bytes -= size;
        self.kept = false;
    }
}

impl Drop for OpenStep<'_> {
    fn drop(&mut self) {
        let mut state = self.log.0.lock();
        let log = state.log.as_mut().expect("the step has begun");
        let at = log.asked.iter().position(|(name, _)| name == self.name);
        let at = at.expect("its name was asked for");
        if self.kept {
            log.asked[at].1 = false;
        } else {
            log.asked.swap_remove(at);
            log.count -= 1;
        }
    }
}

/// The result of a step as a store keeps it: its JSON, and the fingerprint of the request that it
/// belongs to. A tombstone lets in a request of any fingerprint, which must not be given the results
/// of another one.
pub(crate) fn packed(mut json: Vec<u8>, fingerprint: &Fingerprint) -> Bytes {
    json.extend_from_slice(fingerprint.as_bytes());
    json.into()
}

/// The JSON of a recorded result, and the fingerprint of its request. `None` for a result that the
/// layer could not decrypt: it is empty, or still an envelope, whose first byte begins no JSON.
pub(crate) fn unpacked(result: &Bytes) -> Option<(Bytes, Fingerprint)> {
    let (json, fingerprint) = result.split_last_chunk::<FINGERPRINT_BYTES>()?;
    if *json.first()? < b'\t' {
        return None;
    }
    let fingerprint = Fingerprint::from_bytes(*fingerprint);
    Some((result.slice(..json.len()), fingerprint))
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    const LIMITS: StepLimits = StepLimits {
        count: 2,
        each: 4,
        bytes: 6,
    };

    #[track_caller]
    fn open<'a>(log: &'a StepLog, name: &'a str) -> OpenStep<'a> {
        match log.begin(name, LIMITS) {
            Ok(Begun::Open(step)) => step,
            Ok(Begun::Recorded(_)) => panic!("the step is recorded"),
            Err(kind) => panic!("{kind:?}"),
        }
    }

    #[test]
    fn a_name_is_free_again_only_after_a_step_that_can_have_no_record() {
        let log = StepLog::default();
        let running = open(&log, "a");
        assert!(log.is_open());
        assert_eq!(log.begin("a", LIMITS).err(), Some(StepFaultKind::NameInUse));
        drop(running);
        assert!(!log.is_open());
        let mut again = open(&log, "a");
        again.keep(1, LIMITS).unwrap();
        drop(again);
        assert!(!log.is_open());
        assert_eq!(log.begin("a", LIMITS).err(), Some(StepFaultKind::NameInUse));
    }

    #[test]
    fn limits_count_what_earlier_attempts_recorded_and_what_runs() {
        let log = StepLog::default();
        let mut first = open(&log, "a");
        assert_eq!(first.keep(5, LIMITS), Err(StepFaultKind::TooLarge));
        first.keep(4, LIMITS).unwrap();
        let mut second = open(&log, "b");
        assert_eq!(log.begin("c", LIMITS).err(), Some(StepFaultKind::TooMany));
        assert_eq!(second.keep(3, LIMITS), Err(StepFaultKind::TooLarge));
        second.keep(2, LIMITS).unwrap();
        drop((first, second));
        assert_eq!(log.begin("c", LIMITS).err(), Some(StepFaultKind::TooMany));
    }

    #[test]
    fn nothing_begins_once_the_handler_has_responded() {
        let log = StepLog::default();
        let running = open(&log, "a");
        log.close();
        assert_eq!(log.begin("b", LIMITS).err(), Some(StepFaultKind::Ended));
        drop(running);
        assert!(log.is_closed() && !log.is_open());
    }

    #[test]
    fn a_result_comes_back_with_the_fingerprint_of_its_request() {
        let fingerprint = Fingerprint::from_bytes([7; 32]);
        let result = packed(b"{}".to_vec(), &fingerprint);
        assert_eq!(result[..2], *b"{}");
        assert_eq!(unpacked(&result), Some((Bytes::from("{}"), fingerprint)));
        for unreadable in [&[][..], &[b'1'; 31], &[b'1'; 32], &[1; 99]] {
            assert_eq!(unpacked(&Bytes::from_static(unreadable)), None);
        }
    }
}
