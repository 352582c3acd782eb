//! The shared memory calls.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Failure, Result, shown};
use crate::grpc::message::{decode, encode};
use crate::proto::{
    CudaSharedMemoryStatusResponse, Empty, Name, RegionStatus, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryStatusResponse,
};
use crate::shm::{self, Region};
use crate::state::State;

/// Answer the call `method`, which is one of the six.
pub fn call(state: &State, method: &str, message: Bytes) -> Result<Vec<Bytes>> {
    match method {
        "SystemSharedMemoryStatus" => {
            let regions = state.regions.status(&decode::<Name>(message)?.name)?;
            Ok(encode(&SystemSharedMemoryStatusResponse {
                regions: regions.into_iter().map(entry).collect(),
            }))
        }
        "SystemSharedMemoryRegister" => {
            let request: SystemSharedMemoryRegisterRequest = decode(message)?;
            let SystemSharedMemoryRegisterRequest {
                name,
                key,
                offset,
                byte_size,
            } = request;
            state.regions.register(&name, &key, offset, byte_size)?;
            Ok(encode(&Empty {}))
        }
        "SystemSharedMemoryUnregister" => {
            state.regions.unregister(&decode::<Name>(message)?.name)?;
            Ok(encode(&Empty {}))
        }
        "CudaSharedMemoryStatus" => match decode::<Name>(message)?.name.as_str() {
            "" => Ok(encode(&CudaSharedMemoryStatusResponse {})),
            name => Err(Failure::not_found(format!(
                "there is no shared memory region '{}'",
                shown(name)
            ))),
        },
        _ => Err(shm::no_cuda()),
    }
}

fn entry(region: Arc<Region>) -> (String, RegionStatus) {
    let status = RegionStatus {
        name: region.name.clone(),
        key: region.key.clone(),
        offset: region.offset,
        byte_size: region.size,
    };
    (region.name.clone(), status)
}
