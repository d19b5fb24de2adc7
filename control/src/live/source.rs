//! Where the view's figures come from.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::instance::Control;
use crate::listing::Listing;
use crate::management::protocol::ROWS_MAX;
use crate::management::{Answer, Request, Topic, client, show};

/// An instance to look at.
#[derive(Clone, Debug)]
pub enum Source {
    /// That of this process.
    Own(Arc<Control>),
    /// The one behind this management socket.
    Socket(PathBuf),
}

/// What `show` says of an instance at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// `show ports`.
    pub ports: Listing,
    /// `show workers`.
    pub workers: Listing,
    /// `show shares`.
    pub shares: Listing,
    /// `show chains`.
    pub chains: Listing,
    /// `show drops`.
    pub drops: Listing,
    /// `show latency`.
    pub latency: Listing,
}

impl Source {
    fn show(&self, topic: Topic) -> Result<Listing, String> {
        match self {
            Self::Own(control) => show::show(control, topic, &[], Some(ROWS_MAX), 0),
            Self::Socket(path) => {
                let request = Request::Show { topic, filter: Vec::new(), limit: Some(ROWS_MAX), offset: 0 };
                match client::ask(path, &request) {
                    Ok(Answer::Rows(listing)) => Ok(listing),
                    Ok(Answer::Refused(why)) => Err(why),
                    Ok(_) => Err("the instance answers something else".to_owned()),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// The instance does not answer.
    pub fn sample(&self) -> Result<Sample, String> {
        Ok(Sample {
            at: Instant::now(),
            ports: self.show(Topic::Ports)?,
            workers: self.show(Topic::Workers)?,
            shares: self.show(Topic::Shares)?,
            chains: self.show(Topic::Chains)?,
            drops: self.show(Topic::Drops)?,
            latency: self.show(Topic::Latency)?,
        })
    }

    /// Samples every `interval` on a thread of its own, so that an instance that does not answer holds up no key, until nobody
    /// takes them.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn samples(self, interval: Duration) -> std::io::Result<Receiver<Result<Sample, String>>> {
        let (sender, receiver) = sync_channel(1);
        let work = move || {
            while sender.send(self.sample()).is_ok() {
                std::thread::sleep(interval);
            }
        };
        Builder::new().name("samples".to_owned()).spawn(work)?;
        Ok(receiver)
    }
}
