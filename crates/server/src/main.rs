mod output; mod config; mod telemetry; mod serve; mod api; 
fn main(){}
