//! The product as those who use it meet it, in one program: what starts slowly is shared, and nobody waits for the last test of
//! another program.

mod backup;
mod canary;
mod catalog;
mod checkout;
mod cli;
mod demo;
mod doctor;
mod faults;
mod forget;
mod hands;
mod hostile;
mod import;
mod issuing;
mod mail;
mod page_answers;
mod pages;
mod portal;
mod purchase;
mod restart;
mod subscriptions;
mod switching;
