// The one helper image of the node: what holds a pod's namespaces, and what makes a volume's folder.
module capstan.dev/cluster/tools/node-helper

go 1.26.0
