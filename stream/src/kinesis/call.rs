//! Sends one PutRecords and says in our words what came back.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{BuildError, SdkError};
use aws_sdk_kinesis::operation::put_records::PutRecordsError;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, PutRecordsResultEntry};
use headwater_common::position::ShardId;

use super::packing::{Answer, Outgoing};
use super::target::Target;

/// Sends records, once.
///
/// # Errors
/// When there is no answer for them one by one.
pub(crate) async fn put(
    client: &Client,
    target: &Target,
    records: Vec<Outgoing>,
) -> Result<Vec<Answer>, SdkError<PutRecordsError>> {
    let entries = match records.into_iter().map(entry).collect::<Result<Vec<_>, BuildError>>() {
        Ok(entries) => entries,
        Err(error) => return Err(SdkError::construction_failure(error)),
    };
    let said = target.put_records(client).set_records(Some(entries)).send().await?;
    let mut shards = Vec::new();
    Ok(said.records.into_iter().map(|result| answer(result, &mut shards)).collect())
}

fn entry(record: Outgoing) -> Result<PutRecordsRequestEntry, BuildError> {
    let Outgoing { partition_key, explicit_hash_key, payload } = record;
    PutRecordsRequestEntry::builder()
        .data(Blob::from_maybe_shared(payload.into_bytes()))
        .partition_key(String::from_utf8_lossy(&partition_key))
        .set_explicit_hash_key(explicit_hash_key.map(|hash_key| hash_key.to_string()))
        .build()
}

/// Returns what was said of one record. `shards` has those that were named before: there are few.
fn answer(result: PutRecordsResultEntry, shards: &mut Vec<ShardId>) -> Answer {
    let PutRecordsResultEntry { sequence_number, shard_id, error_code, error_message, .. } = result;
    let sequence = sequence_number.and_then(|number| number.parse().ok());
    match (error_code, sequence, shard_id) {
        (None, Some(sequence), Some(name)) => {
            let known = shards.iter().find(|shard| shard.as_str() == name).cloned();
            let shard = known.unwrap_or_else(|| {
                let shard = ShardId::from(name.as_str());
                shards.push(shard.clone());
                shard
            });
            Answer::Stored { shard, sequence }
        }
        (code, ..) => Answer::Refused {
            code: code.unwrap_or_default(),
            message: error_message.unwrap_or_else(|| "the answer does not say where the record is".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_place_or_a_refusal() {
        let mut shards = Vec::new();
        let stored = PutRecordsResultEntry::builder().sequence_number("7").shard_id("s").build();
        let expected = Answer::Stored { shard: "s".into(), sequence: 7.into() };
        assert_eq!(answer(stored.clone(), &mut shards), expected);
        assert_eq!(answer(stored, &mut shards), expected);
        assert_eq!(shards.len(), 1);
        let refused = PutRecordsResultEntry::builder().error_code("InternalFailure").error_message("oops").build();
        let expected = Answer::Refused { code: "InternalFailure".to_owned(), message: "oops".to_owned() };
        assert_eq!(answer(refused, &mut shards), expected);
        // Neither: it is not believed to be there.
        let nothing = PutRecordsResultEntry::builder().shard_id("s").sequence_number("x").build();
        assert!(matches!(answer(nothing, &mut shards), Answer::Refused { .. }));
    }
}
