//! What an engine has to bring to be checked.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use grantsmith_core::testing::{ManualClock, World};
use grantsmith_service::store::{Error, Store};

/// Makes records of one engine.
#[async_trait]
pub(crate) trait Harness: Send + Sync + Sized + 'static {
    /// A place for a record that is not there yet.
    async fn fresh() -> Self;

    /// The clock that records are opened with.
    fn clock(&self) -> &ManualClock;

    /// Takes a world's clock instead, before anything was opened.
    fn follow(&self, world: &World);

    /// Opens the record.
    async fn try_open(&self) -> Result<Arc<dyn Store>, Error>;

    /// What would be found if the power went now, as a place of its own.
    async fn crash(&self) -> Self;

    /// Somebody else holds the record against writers until the value is dropped.
    async fn hold(&self) -> Box<dyn Any + Send>;

    /// Makes the record look as if a later version had written it. It is not open.
    async fn outdate(&self);

    /// Opens the record, which must go well.
    async fn open(&self) -> Arc<dyn Store> {
        self.try_open().await.expect("opens")
    }
}
