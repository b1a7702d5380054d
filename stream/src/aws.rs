//! What all clients of AWS share: settings as the AWS command line finds them, a count of every call, and what an
//! error says of the request it ended.
//!
//! Retries are the callers': a client made here tries once, so that what is sent again, and when, is decided in one
//! place and counted.

use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use headwater_common::outcome::{Again, Effect};

use crate::Error;

/// Calls of AWS services, every attempt counted; labels `service`, `operation`.
pub const API_CALLS: &str = "headwater_api_calls_total";

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long an answer may take; GetRecords of 10 MiB over a slow line is the longest.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

/// Loads region, credentials and endpoints as the AWS command line does: environment, profile, SSO, web identity,
/// container, instance.
pub async fn load() -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_MAX).operation_attempt_timeout(ATTEMPT_MAX).build();
    aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .load()
        .await
}

/// Told of every attempt of every call: service and operation, as the service names them.
pub type Observer = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// Counts every attempt of every call in [`API_CALLS`], and tells an observer, when there is one.
#[derive(Clone, Default)]
pub struct CallCounter {
    observer: Option<Observer>,
}

impl CallCounter {
    /// Returns a counter that tells `observer` as well.
    pub fn telling(observer: Observer) -> Self {
        Self { observer: Some(observer) }
    }
}

impl std::fmt::Debug for CallCounter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallCounter").finish_non_exhaustive()
    }
}

#[dyn_dispatch_hint]
impl Intercept for CallCounter {
    fn name(&self) -> &'static str {
        "headwater call counter"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(metadata) = config.load::<Metadata>() {
            let (service, operation) = (metadata.service().to_owned(), metadata.name().to_owned());
            if let Some(observer) = &self.observer {
                observer(&service, &operation);
            }
            metrics::counter!(API_CALLS, "service" => service, "operation" => operation).increment(1);
        }
        Ok(())
    }
}

/// What an error of a call says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error's code, such as `ResourceNotFoundException`; empty when no answer came.
    pub code: String,
    /// Whether the operation took effect.
    pub effect: Effect,
    /// Whether it may work later.
    pub again: Again,
}

/// Error codes that mean "later", on all services that are called here.
/// <https://docs.aws.amazon.com/kinesis/latest/APIReference/CommonErrors.html>
const LATER: [&str; 13] = [
    "InternalFailure",
    "InternalFailureException",
    "InternalServerError",
    "KMSThrottlingException",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestExpired",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TransactionInProgressException",
    "RequestTimeTooSkewed",
];

/// Says what an error means for the request.
pub fn classify<E: ProvideErrorMetadata>(error: &SdkError<E, Response>) -> Failure {
    let later = |effect| Failure { code: String::new(), effect, again: Again::MayHelp };
    match error {
        SdkError::ConstructionFailure(_) => {
            Failure { code: String::new(), effect: Effect::DidNotHappen, again: Again::WillNotHelp }
        }
        // Credentials that could not be loaded come as a dispatch failure that the user must mend.
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            Failure { code: String::new(), effect: Effect::DidNotHappen, again: Again::WillNotHelp }
        }
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().unwrap_or_default().to_owned();
            let is_server = answer.raw().status().is_server_error();
            let again = if is_server || LATER.contains(&code.as_str()) { Again::MayHelp } else { Again::WillNotHelp };
            Failure { code, effect: if is_server { Effect::Unknown } else { Effect::DidNotHappen }, again }
        }
        _ => later(Effect::Unknown),
    }
}

/// Makes the error that a user sees. `hint` says what to do, where that is known.
pub fn service_error<E>(url: &str, operation: &'static str, hint: Option<String>, error: SdkError<E, Response>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Failure { effect, again, .. } = classify(&error);
    Error::Service { url: url.to_owned(), operation, hint, effect, again, source: Box::new(error) }
}
