//! The shared memory routes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result, shown};
use crate::shm;
use crate::state::State;

#[derive(Deserialize)]
struct Registration {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

#[derive(Serialize)]
struct Status<'a> {
    name: &'a str,
    key: &'a str,
    offset: u64,
    byte_size: u64,
}

/// Answer `/v2/systemsharedmemory[/region/REGION]/ACTION`; an empty region is all of them.
pub fn system(state: &State, region: &str, action: &str, body: &[u8]) -> Result<Bytes> {
    match action {
        "status" => {
            let regions = state.regions.status(region)?;
            let status: Vec<Status> = regions
                .iter()
                .map(|region| Status {
                    name: &region.name,
                    key: &region.key,
                    offset: region.offset,
                    byte_size: region.size,
                })
                .collect();
            let json = serde_json::to_vec(&status);
            json.map(Bytes::from)
                .map_err(|error| Failure::internal(error.to_string()))
        }
        "unregister" => state.regions.unregister(region).map(|()| Bytes::new()),
        _ => {
            let registration: Registration = serde_json::from_slice(body).map_err(|error| {
                Failure::invalid(format!(
                    "failed to parse the request JSON, which needs key, offset and byte_size: {error}"
                ))
            })?;
            let Registration {
                key,
                offset,
                byte_size,
            } = registration;
            state.regions.register(region, &key, offset, byte_size)?;
            Ok(Bytes::new())
        }
    }
}

/// Answer `/v2/cudasharedmemory[/region/REGION]/ACTION`: there never is a region.
pub fn cuda(region: &str, action: &str) -> Result<Bytes> {
    match (action, region) {
        ("status", "") => Ok(Bytes::from_static(b"[]")),
        ("status", region) => Err(Failure::not_found(format!(
            "there is no shared memory region '{}'",
            shown(region)
        ))),
        _ => Err(shm::no_cuda()),
    }
}
