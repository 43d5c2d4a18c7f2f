//! A request of somebody who may make it.

use tonic::{Code, Request, Status};

use super::{context, errors};
use crate::{auth::Operator, store::Actor};

/// The only form in which requests reach what handles them, so that a handler which compiles has checked.
pub struct Authorized<T> {
    pub operator: Operator,
    pub message: T,
}

impl<T> Authorized<T> {
    /// Takes the operator that the gate has put into the request.
    pub fn of(mut request: Request<T>) -> Result<Self, Status> {
        let operator = request.extensions_mut().remove::<Operator>();
        let operator =
            operator.ok_or_else(|| errors::status(Code::Unauthenticated, "TOKEN_MISSING", "not authenticated", &[]))?;
        Ok(Self { operator, message: request.into_inner() })
    }

    /// Who makes the change, now.
    pub fn actor(&self) -> Actor {
        self.operator.actor(context::now())
    }
}
