//! `EventService`.

use bytes::Bytes;
use grantsmith_proto::v1 as pb;
use tonic::{Code, Request, Response, Status};

use super::status::CallReason;
use super::tokens::Role;
use super::{Services, convert, filter, page_token, status};
use crate::fulfillment::RecordError;
use crate::store::Cursor;
use crate::stripe::Mode;

fn record_error(error: RecordError) -> Status {
    match error {
        RecordError::NotAnEvent(error) => {
            status::plain(Code::InvalidArgument, CallReason::BadArgument, error.to_string())
        }
        RecordError::Store(error) => status::store(&error),
    }
}

fn event_id(name: &str) -> Result<&str, Status> {
    name.strip_prefix("events/").filter(|id| !id.is_empty()).ok_or_else(|| {
        status::plain(
            Code::InvalidArgument,
            CallReason::BadArgument,
            "an event is named events/ID, such as events/evt_1Abc",
        )
    })
}

#[tonic::async_trait]
impl pb::event_service_server::EventService for Services {
    async fn record_event(
        &self,
        request: Request<pb::RecordEventRequest>,
    ) -> Result<Response<pb::RecordEventResponse>, Status> {
        self.allow(&request, Role::Ingest).await?;
        let message = request.into_inner();
        let verified = match message.verified_mode() {
            pb::Mode::Live => Mode::Live,
            pb::Mode::Test => Mode::Test,
            pb::Mode::Unspecified => {
                let text =
                    "verified_mode is missing; say which mode the secret that verified the signature is of";
                return Err(status::plain(Code::InvalidArgument, CallReason::BadArgument, text));
            }
        };
        let recorded = self.fulfillment.record(Bytes::from(message.payload), verified).await;
        let (id, answer) = recorded.map_err(record_error)?;
        Ok(Response::new(convert::answer(&id, answer)))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        self.allow(&request, Role::Read).await?;
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size)?;
        let filter = filter::events(&message.filter)?;
        let after = page_token::read(&message.page_token, &message.filter)?;
        // One more than asked for tells whether there is a next page.
        let found = self.fulfillment.store().events(&filter, after.as_ref(), size + 1).await;
        let mut events = found.map_err(|error| status::store(&error))?;
        let more = events.len() > size as usize;
        events.truncate(size as usize);
        let last =
            events.last().filter(|_| more).map(|event| Cursor { at: event.received, id: event.id.clone() });
        Ok(Response::new(pb::ListEventsResponse {
            events: events.into_iter().map(convert::event).collect(),
            next_page_token: last
                .map_or_else(String::new, |cursor| page_token::write(&cursor, &message.filter)),
        }))
    }

    async fn get_event(&self, request: Request<pb::GetEventRequest>) -> Result<Response<pb::Event>, Status> {
        self.allow(&request, Role::Read).await?;
        let name = request.into_inner().name;
        let found =
            self.fulfillment.store().event(event_id(&name)?).await.map_err(|error| status::store(&error))?;
        found
            .map(|event| Response::new(convert::event(event)))
            .ok_or_else(|| status::not_found("event", &name))
    }

    async fn replay_event(
        &self,
        request: Request<pb::ReplayEventRequest>,
    ) -> Result<Response<pb::Event>, Status> {
        self.allow(&request, Role::Manage).await?;
        let name = request.into_inner().name;
        let replayed = self.fulfillment.replay(event_id(&name)?).await.map_err(record_error)?;
        let mut event = replayed.ok_or_else(|| status::not_found("event", &name))?;
        event.body = None;
        Ok(Response::new(convert::event(event)))
    }
}
