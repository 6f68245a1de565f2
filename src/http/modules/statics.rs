//! stub
use crate::config::*;
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::phases::Outcome;
use crate::http::respond::Reply;
use crate::http::scope::{Compiler, Scope};
pub const ROWS: &[Row<Scope>] = &[];
#[derive(Default)]
pub struct Raw;
pub struct Conf;
impl Raw {
    pub fn inherit(&mut self, _p: &Raw) {}
    pub fn compile(&self, _c: &mut Compiler) -> Result<Conf> {
        Ok(Conf)
    }
}
pub async fn serve(_ex: &mut Exchange, _c: &mut Client) -> Outcome {
    Outcome::Answer(Reply::status(404))
}
