-- TPC-H as a graph, written by hand: the same rows and columns as `isohop build benchmarks/tpch.yaml`.
-- Run in a folder with the tables in data/: it writes nodes/ and edges/, which must be there.
-- It trusts the data where Isohop checks: no keys, references or dependencies, no ledger, no
-- certificate, and entities are looked for in their own tables alone.
SET preserve_insertion_order = false;

CREATE TEMP TABLE customer_node AS
  SELECT row_number() OVER (ORDER BY c_custkey) - 1 AS node_id, c_custkey, c_acctbal, c_address, c_comment, c_mktsegment, c_name, c_phone, r_name AS region, n_name AS nation
  FROM 'data/customer.parquet'
  LEFT JOIN 'data/nation.parquet' ON c_nationkey = n_nationkey
  LEFT JOIN 'data/region.parquet' ON n_regionkey = r_regionkey;
COPY (SELECT * EXCLUDE (nation) FROM customer_node ORDER BY node_id) TO 'nodes/customer/part-0.parquet';
CREATE TEMP TABLE customer_nation AS
  SELECT row_number() OVER (ORDER BY nation) - 1 AS node_id, nation AS value
  FROM (SELECT DISTINCT nation FROM customer_node WHERE nation IS NOT NULL);
COPY customer_nation TO 'nodes/customer.nation/part-0.parquet';
COPY (
  SELECT n.node_id AS src, v.node_id AS dst, 1::BIGINT AS count
  FROM customer_node n JOIN customer_nation v ON n.nation = v.value
) TO 'edges/customer--nation--customer.nation/part-0.parquet';

CREATE TEMP TABLE supplier_node AS
  SELECT row_number() OVER (ORDER BY s_suppkey) - 1 AS node_id, s_suppkey, s_acctbal, s_address, s_comment, s_name, s_phone, r_name AS region, n_name AS nation
  FROM 'data/supplier.parquet'
  LEFT JOIN 'data/nation.parquet' ON s_nationkey = n_nationkey
  LEFT JOIN 'data/region.parquet' ON n_regionkey = r_regionkey;
COPY (SELECT * EXCLUDE (nation) FROM supplier_node ORDER BY node_id) TO 'nodes/supplier/part-0.parquet';
CREATE TEMP TABLE supplier_nation AS
  SELECT row_number() OVER (ORDER BY nation) - 1 AS node_id, nation AS value
  FROM (SELECT DISTINCT nation FROM supplier_node WHERE nation IS NOT NULL);
COPY supplier_nation TO 'nodes/supplier.nation/part-0.parquet';
COPY (
  SELECT n.node_id AS src, v.node_id AS dst, 1::BIGINT AS count
  FROM supplier_node n JOIN supplier_nation v ON n.nation = v.value
) TO 'edges/supplier--nation--supplier.nation/part-0.parquet';

CREATE TEMP TABLE part_node AS
  SELECT row_number() OVER (ORDER BY p_partkey) - 1 AS node_id, p_partkey, p_brand, p_comment, p_container, p_mfgr, p_name, p_retailprice, p_size, p_type
  FROM 'data/part.parquet';
COPY (SELECT * FROM part_node ORDER BY node_id) TO 'nodes/part/part-0.parquet';

CREATE TEMP TABLE sale AS
  SELECT c.node_id AS customer, p.node_id AS part, s.node_id AS supplier,
    l_discount, l_extendedprice, l_quantity,
    l_shipdate, o_orderdate,
    l_returnflag, o_orderpriority
  FROM 'data/lineitem.parquet'
  LEFT JOIN 'data/orders.parquet' ON l_orderkey = o_orderkey
  LEFT JOIN customer_node c ON o_custkey = c_custkey
  LEFT JOIN part_node p ON l_partkey = p_partkey
  LEFT JOIN supplier_node s ON l_suppkey = s_suppkey;

COPY (
  SELECT customer AS src, part AS dst, count(*) AS count,
    avg(l_discount) AS l_discount_mean,
    min(l_discount)::DOUBLE AS l_discount_min,
    max(l_discount)::DOUBLE AS l_discount_max,
    avg(l_extendedprice) AS l_extendedprice_mean,
    min(l_extendedprice)::DOUBLE AS l_extendedprice_min,
    max(l_extendedprice)::DOUBLE AS l_extendedprice_max,
    avg(l_quantity) AS l_quantity_mean,
    min(l_quantity)::DOUBLE AS l_quantity_min,
    max(l_quantity)::DOUBLE AS l_quantity_max,
    list_sort(list(DISTINCT l_returnflag)) AS l_returnflag,
    min(l_shipdate) AS l_shipdate_first,
    max(l_shipdate) AS l_shipdate_last,
    min(o_orderdate) AS o_orderdate_first,
    max(o_orderdate) AS o_orderdate_last,
    list_sort(list(DISTINCT o_orderpriority)) AS o_orderpriority
  FROM sale WHERE customer IS NOT NULL AND part IS NOT NULL GROUP BY src, dst
) TO 'edges/customer--lineitem--part/part-0.parquet';

COPY (
  SELECT customer AS src, supplier AS dst, count(*) AS count,
    avg(l_discount) AS l_discount_mean,
    min(l_discount)::DOUBLE AS l_discount_min,
    max(l_discount)::DOUBLE AS l_discount_max,
    avg(l_extendedprice) AS l_extendedprice_mean,
    min(l_extendedprice)::DOUBLE AS l_extendedprice_min,
    max(l_extendedprice)::DOUBLE AS l_extendedprice_max,
    avg(l_quantity) AS l_quantity_mean,
    min(l_quantity)::DOUBLE AS l_quantity_min,
    max(l_quantity)::DOUBLE AS l_quantity_max,
    list_sort(list(DISTINCT l_returnflag)) AS l_returnflag,
    min(l_shipdate) AS l_shipdate_first,
    max(l_shipdate) AS l_shipdate_last,
    min(o_orderdate) AS o_orderdate_first,
    max(o_orderdate) AS o_orderdate_last,
    list_sort(list(DISTINCT o_orderpriority)) AS o_orderpriority
  FROM sale WHERE customer IS NOT NULL AND supplier IS NOT NULL GROUP BY src, dst
) TO 'edges/customer--lineitem--supplier/part-0.parquet';

COPY (
  SELECT part AS src, supplier AS dst, count(*) AS count,
    avg(l_discount) AS l_discount_mean,
    min(l_discount)::DOUBLE AS l_discount_min,
    max(l_discount)::DOUBLE AS l_discount_max,
    avg(l_extendedprice) AS l_extendedprice_mean,
    min(l_extendedprice)::DOUBLE AS l_extendedprice_min,
    max(l_extendedprice)::DOUBLE AS l_extendedprice_max,
    avg(l_quantity) AS l_quantity_mean,
    min(l_quantity)::DOUBLE AS l_quantity_min,
    max(l_quantity)::DOUBLE AS l_quantity_max,
    list_sort(list(DISTINCT l_returnflag)) AS l_returnflag,
    min(l_shipdate) AS l_shipdate_first,
    max(l_shipdate) AS l_shipdate_last,
    min(o_orderdate) AS o_orderdate_first,
    max(o_orderdate) AS o_orderdate_last,
    list_sort(list(DISTINCT o_orderpriority)) AS o_orderpriority
  FROM sale WHERE part IS NOT NULL AND supplier IS NOT NULL GROUP BY src, dst
) TO 'edges/part--lineitem--supplier/part-0.parquet';

COPY (
  SELECT p.node_id AS src, s.node_id AS dst, count(*) AS count,
    avg(ps_availqty) AS ps_availqty_mean,
    min(ps_availqty)::DOUBLE AS ps_availqty_min,
    max(ps_availqty)::DOUBLE AS ps_availqty_max,
    avg(ps_supplycost) AS ps_supplycost_mean,
    min(ps_supplycost)::DOUBLE AS ps_supplycost_min,
    max(ps_supplycost)::DOUBLE AS ps_supplycost_max
  FROM 'data/partsupp.parquet'
  JOIN part_node p ON ps_partkey = p_partkey
  JOIN supplier_node s ON ps_suppkey = s_suppkey
  GROUP BY src, dst
) TO 'edges/part--partsupp--supplier/part-0.parquet';
