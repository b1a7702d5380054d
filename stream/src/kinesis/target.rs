//! How the stream is named in a call, and what the user can do when a call says no.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::operation::create_stream::builders::CreateStreamFluentBuilder;
use aws_sdk_kinesis::operation::describe_stream_summary::builders::DescribeStreamSummaryFluentBuilder;
use aws_sdk_kinesis::operation::list_shards::builders::ListShardsFluentBuilder;
use aws_sdk_kinesis::operation::put_records::builders::PutRecordsFluentBuilder;
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::{Error, aws};

/// A stream, by its name or by its ARN, as the user gave it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    name: String,
}

impl Target {
    /// Returns the stream of a name or an ARN.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Returns the stream's URL, for messages.
    pub(crate) fn url(&self) -> String {
        format!("kinesis://{}", self.name)
    }

    /// Returns the stream's name, also where an ARN was given.
    pub(crate) fn stream_name(&self) -> &str {
        self.name.split_once(":stream/").map_or(&self.name, |(_, name)| name)
    }

    fn is_arn(&self) -> bool {
        self.name.starts_with("arn:")
    }

    /// Begins a PutRecords.
    pub(crate) fn put_records(&self, client: &Client) -> PutRecordsFluentBuilder {
        let request = client.put_records();
        if self.is_arn() { request.stream_arn(&self.name) } else { request.stream_name(&self.name) }
    }

    /// Begins a DescribeStreamSummary.
    pub(crate) fn describe(&self, client: &Client) -> DescribeStreamSummaryFluentBuilder {
        let request = client.describe_stream_summary();
        if self.is_arn() { request.stream_arn(&self.name) } else { request.stream_name(&self.name) }
    }

    /// Begins a ListShards, or goes on with one: a token names the stream by itself.
    pub(crate) fn list_shards(&self, client: &Client, token: Option<String>) -> ListShardsFluentBuilder {
        let request = client.list_shards();
        match token {
            Some(token) => request.next_token(token),
            None if self.is_arn() => request.stream_arn(&self.name),
            None => request.stream_name(&self.name),
        }
    }

    /// Begins a CreateStream, which takes a name only.
    pub(crate) fn create(&self, client: &Client) -> CreateStreamFluentBuilder {
        client.create_stream().stream_name(self.stream_name())
    }

    /// Makes the error that a user sees of a call that failed.
    pub(crate) fn failed<E>(&self, operation: &'static str, error: SdkError<E, Response>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let hint = advice(&aws::classify(&error).code, operation);
        aws::service_error(&self.url(), operation, hint, error)
    }
}

/// Returns what the user can do, where that is known.
fn advice(code: &str, operation: &str) -> Option<String> {
    let advice = match code {
        "ResourceNotFoundException" => {
            "there is no such stream in this account and region; `--create --shards N` makes one".to_owned()
        }
        "AccessDeniedException" => format!("the credentials need the permission kinesis:{operation}"),
        "ExpiredTokenException" | "UnrecognizedClientException" | "InvalidSignatureException" => {
            "look at the credentials, and at the clock of this machine".to_owned()
        }
        "KMSAccessDeniedException" | "KMSDisabledException" | "KMSInvalidStateException" | "KMSNotFoundException" => {
            "the stream is encrypted with a key that cannot be used; look at its key policy".to_owned()
        }
        "LimitExceededException" if operation == "CreateStream" => {
            "the account has as many shards or on-demand streams as it may have, or five streams are being made at \
             the moment; ask for fewer shards, or have the quota raised"
                .to_owned()
        }
        _ => return None,
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_named_by_its_name_or_its_arn() {
        let arn = "arn:aws:kinesis:us-east-1:123456789012:stream/orders";
        for given in ["orders", arn] {
            let target = Target::new(given);
            assert_eq!(target.stream_name(), "orders");
            assert_eq!(target.url(), format!("kinesis://{given}"));
            assert_eq!(target.is_arn(), given == arn);
        }
    }
}
