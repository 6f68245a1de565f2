//! stub
use crate::config::*;
use crate::http::exchange::Exchange;
use crate::http::scope::{Compiler, Scope};
pub const ROWS: &[Row<Scope>] = &[];
#[derive(Default)]
pub struct Raw;
pub struct Conf;
pub struct Stream;
impl Raw {
    pub fn inherit(&mut self, _p: &Raw) {}
    pub fn compile(&self, _c: &mut Compiler) -> Result<Conf> {
        Ok(Conf)
    }
}
pub fn header_filter(_ex: &mut Exchange, _conf: &Conf, _bodiless: bool) -> Option<Box<Stream>> {
    None
}
impl Stream {
    pub fn write(&mut self, d: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(d)
    }
    pub fn flush(&mut self, _out: &mut Vec<u8>) {}
    pub fn finish(self: Box<Self>, _out: &mut Vec<u8>) {}
}
