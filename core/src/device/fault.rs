#![allow(missing_docs)]
pub struct FaultDevice;
pub struct FaultPlan;
