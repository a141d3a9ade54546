//! The killer follows the plan: it kills servers and the database, and freezes
//! servers for longer than a lease.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::BoxError;
use super::history::{Broken, Micros, now};
use super::plan::{Blow, Planned};
use super::process::Process;
use super::proxy::Proxy;
use super::server::Setup;
use super::servers::Server;

/// `Place` is one server and the proxy in front of the server.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) setup: Setup,
    pub(crate) proxy: Proxy,
    /// The task that breaks or mends the server holds this lock, so that two blows
    /// never hit one server at the same time.
    pub(crate) process: Arc<tokio::sync::Mutex<Process>>,
}

/// `Faults` holds what is broken now and what was broken before.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<(Micros, Option<Micros>)>>);

impl Faults {
    fn list(&self) -> MutexGuard<'_, Vec<(Micros, Option<Micros>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> usize {
        let mut list = self.list();
        list.push((now(), None));
        list.len() - 1
    }

    fn end(&self, fault: usize) {
        self.list()[fault].1 = Some(now());
    }

    /// Returns since when nothing is broken, or the current time while something is
    /// broken.
    pub(crate) fn none_since(&self) -> Micros {
        let ends = self
            .list()
            .iter()
            .map(|(_, end)| end.unwrap_or_else(now))
            .max();
        ends.unwrap_or(0)
    }

    pub(crate) fn all(&self) -> Vec<Broken> {
        let broken = |(from, to): &(Micros, Option<Micros>)| Broken {
            from: *from,
            to: to.unwrap_or_else(now),
        };
        self.list().iter().map(broken).collect()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blows {
    pub(crate) kills: u32,
    pub(crate) freezes: u32,
    pub(crate) database_kills: u32,
}

#[derive(Debug)]
pub(crate) struct Killer {
    pub(crate) places: Arc<Vec<Place>>,
    pub(crate) database: Option<Arc<Server>>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) lease: Duration,
    /// This program starts as a server with these arguments.
    pub(crate) arguments: Arc<Vec<String>>,
}

impl Killer {
    /// Strikes each blow once the operation before which the blow is planned has
    /// been reached. The killer sends through `due` the operation before which its
    /// next blow is planned.
    pub(crate) async fn strike(
        self,
        blows: Vec<Planned>,
        mut begun: watch::Receiver<u32>,
        due: watch::Sender<u32>,
    ) -> Result<Blows, BoxError> {
        let mut struck = Blows::default();
        let mut mending = JoinSet::new();
        // Only one server is frozen at a time. If many were frozen at once, no
        // server could overtake the frozen ones.
        let freezers = Arc::new(Semaphore::new(1));
        let nexts = blows.iter().skip(1).map(|next| next.before);
        let nexts: Vec<u32> = nexts.chain([u32::MAX]).collect();
        due.send_replace(blows.first().map_or(u32::MAX, |first| first.before));
        for (planned, next) in blows.into_iter().zip(nexts) {
            let permit = match planned.blow {
                Blow::Freeze(_) => Some(Arc::clone(&freezers).acquire_owned().await?),
                _ => None,
            };
            begun.wait_for(|begun| *begun >= planned.before).await?;
            // This line lets the clients go on before the blow falls, so that the
            // servers are busy when the blow falls.
            due.send_replace(next);
            sleep(planned.after).await;
            match planned.blow {
                Blow::Kill(server) => {
                    struck.kills += 1;
                    let (place, mut process) = self.take(server).await;
                    let fault = self.faults.begin();
                    // Another program may soon use the killed server's port, so the
                    // proxy must not connect to that port.
                    self.places[place].proxy.lead_nowhere();
                    process.kill().await?;
                    mending.spawn(self.restart(place, process, fault, planned.lasts));
                }
                Blow::Freeze(server) => {
                    struck.freezes += 1;
                    let (_, process) = self.take(server).await;
                    let (faults, lasts) = (Arc::clone(&self.faults), self.lease + planned.lasts);
                    let fault = faults.begin();
                    process.freeze().await?;
                    mending.spawn(async move {
                        sleep(lasts).await;
                        process.thaw().await?;
                        faults.end(fault);
                        drop(permit);
                        Ok(())
                    });
                }
                Blow::KillDatabase => {
                    let Some(database) = self.database.clone() else {
                        continue;
                    };
                    struck.database_kills += 1;
                    let fault = self.faults.begin();
                    let (killed, faults) = (Arc::clone(&database), Arc::clone(&self.faults));
                    spawn_blocking(move || killed.kill()).await?;
                    sleep(planned.lasts).await;
                    spawn_blocking(move || database.restart()).await?;
                    faults.end(fault);
                }
            }
            while let Some(mended) = mending.try_join_next() {
                mended??;
            }
        }
        while let Some(mended) = mending.join_next().await {
            mended??;
        }
        Ok(struck)
    }

    /// Returns the wanted server, or another one if the wanted server is being
    /// broken or mended.
    async fn take(&self, wanted: usize) -> (usize, OwnedMutexGuard<Process>) {
        loop {
            for nth in 0..self.places.len() {
                let place = (wanted + nth) % self.places.len();
                let process = Arc::clone(&self.places[place].process);
                if let Ok(process) = process.try_lock_owned() {
                    return (place, process);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn restart(
        &self,
        place: usize,
        mut process: OwnedMutexGuard<Process>,
        fault: usize,
        after: Duration,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
        let (places, faults) = (Arc::clone(&self.places), Arc::clone(&self.faults));
        let arguments = Arc::clone(&self.arguments);
        async move {
            sleep(after).await;
            let place = &places[place];
            *process = Process::start(&place.setup, &arguments).await?;
            place.proxy.lead_to(process.port);
            faults.end(fault);
            Ok(())
        }
    }
}
