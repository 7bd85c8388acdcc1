-- Of exits that hold one address, one keeps it: with a line, reachable, seen last, oldest. What is relayed to the others goes to
-- that address and is not theirs any more, so the forwards that do so get a new state.
UPDATE `hosts` SET `desired_rev` = `desired_rev` + 1
WHERE `id` IN (
  SELECT c.`forward_host_id` FROM `connections` c
  JOIN `lines` l ON l.`id` = c.`line_id`
  JOIN `hosts` e ON e.`id` = l.`exit_host_id`
  WHERE c.`state` = 'active' AND e.`state` <> 'retired' AND EXISTS (
    SELECT 1 FROM `hosts` o
    WHERE o.`role` = 'exit' AND o.`state` <> 'retired' AND o.`public_address` = e.`public_address` AND o.`id` <> e.`id`
  )
);--> statement-breakpoint
UPDATE `hosts` SET `public_address` = NULL
WHERE `role` = 'exit' AND `state` <> 'retired' AND `public_address` IS NOT NULL
  AND `id` <> (
    SELECT o.`id` FROM `hosts` o
    WHERE o.`role` = 'exit' AND o.`state` <> 'retired' AND o.`public_address` = `hosts`.`public_address`
    ORDER BY
      EXISTS (SELECT 1 FROM `lines` l WHERE l.`exit_host_id` = o.`id` AND l.`state` <> 'deleted') DESC,
      o.`state` = 'online' DESC, o.`last_seen_at` DESC, o.`id`
    LIMIT 1
  );--> statement-breakpoint
ALTER TABLE `hosts` ADD `capacity` integer;--> statement-breakpoint
CREATE UNIQUE INDEX `hosts_exit_address` ON `hosts` (`public_address`) WHERE role = 'exit' AND state <> 'retired' AND public_address IS NOT NULL;--> statement-breakpoint
ALTER TABLE `pairs` ADD `retired_at` integer;--> statement-breakpoint
ALTER TABLE `jobs` ADD `losses` integer DEFAULT 0 NOT NULL;